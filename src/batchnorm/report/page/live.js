"use strict";
// While the run trains: one line on where it is, and the page anew after each epoch, as the reader had set it.

const KEPT = "batchnorm-live";
// The line changes too often to be read out; that the training has ended is.
const line = element("p", { class: "status" }, "Training");
const end = element("p", { class: "status", role: "status" });
const pause = element("button", { type: "button", class: "chip plain", "aria-pressed": "false" }, "Pause updates");
document.querySelector("header").append(line, end, pause);
const controls = () => [...document.querySelectorAll("a, button, select, input, summary, [tabindex]")];
const details = () => [...document.querySelectorAll("details")];

function keep() {
  const hidden = [...document.querySelectorAll(".chip[aria-pressed='false'][data-arm]")].map((chip) => chip.dataset.arm);
  const chosen = Object.fromEntries(["layer", "seed"].map((id) => [id, document.getElementById(id)?.value]));
  sessionStorage.setItem(KEPT, JSON.stringify({ hidden, chosen, top: scrollY, open: details().map((each) => each.open), focus: controls().indexOf(document.activeElement) }));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  if (!kept) return;
  for (const arm of kept.hidden) document.querySelector(`.chip[data-arm="${CSS.escape(arm)}"]`)?.click();
  for (const [id, value] of Object.entries(kept.chosen)) {
    const select = document.getElementById(id);
    if (!select || ![...select.options].some((option) => option.value === value)) continue;
    select.value = value;
    select.dispatchEvent(new Event("change"));
  }
  details().forEach((each, number) => { each.open = kept.open[number]; });
  controls()[kept.focus]?.focus({ preventScroll: true });
  scrollTo(0, kept.top);
}

let behind = false;
const isPaused = () => pause.getAttribute("aria-pressed") === "true";
function catchUp() {
  if (!behind || isPaused()) return;
  keep();
  location.reload();
}
pause.addEventListener("click", () => { flip(pause); catchUp(); });

const events = new EventSource("events");
events.addEventListener("progress", ({ data }) => {
  if (isPaused()) return;
  const { arm, seed, epoch, epochs, share, loss, accuracy } = JSON.parse(data);
  line.textContent = `Training ${arm}, seed ${seed}, epoch ${epoch} of ${epochs}: ${Math.round(100 * share)} %, loss ${loss?.toFixed(3) ?? "lost"}, accuracy ${accuracy.toFixed(3)}`;
});
events.addEventListener("epoch", () => { behind = true; catchUp(); });
events.addEventListener("over", () => {
  events.close();
  line.remove();
  end.textContent = "Training has ended; this page is kept as report.html beside the records.";
});
restore();
