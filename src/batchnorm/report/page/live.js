"use strict";
// While the run trains: one line on where it is, and the page anew after each epoch, as the reader had set it.

const KEPT = "batchnorm-live";
const line = document.createElement("p");
line.className = "status";
line.setAttribute("role", "status");
line.id = "live";
line.textContent = "Training";
document.querySelector("header").append(line);

function keep() {
  const hidden = [...document.querySelectorAll(".chip[aria-pressed='false'][data-arm]")].map((chip) => chip.dataset.arm);
  const chosen = Object.fromEntries(["layer", "seed"].map((id) => [id, document.getElementById(id)?.value]));
  sessionStorage.setItem(KEPT, JSON.stringify({ hidden, chosen, top: scrollY }));
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
  scrollTo(0, kept.top);
}

const events = new EventSource("events");
events.addEventListener("progress", ({ data }) => {
  const { arm, seed, epoch, epochs, share, loss, accuracy } = JSON.parse(data);
  line.textContent = `Training ${arm}, seed ${seed}, epoch ${epoch} of ${epochs}: ${Math.round(100 * share)} %, loss ${loss?.toFixed(3) ?? "lost"}, accuracy ${accuracy.toFixed(3)}`;
});
events.addEventListener("epoch", () => { keep(); location.reload(); });
events.addEventListener("over", () => {
  events.close();
  line.textContent = "Training has ended; this page is kept as report.html beside the records.";
});
restore();
