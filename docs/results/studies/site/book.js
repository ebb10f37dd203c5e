"use strict";
// What the scripts of a run's page and of the book share: charts, their words, and the theme.

const byId = (id) => document.getElementById(id);

// A chart as it comes with the page is complete but for its rows and parameters.
function filled(spec, rows, params = {}) {
  return {
    ...spec,
    data: spec.data.map((source) => (source.name === "rows" ? { ...source, values: rows } : source)),
    signals: (spec.signals ?? []).map((signal) => (signal.name in params ? { ...signal, value: params[signal.name] } : signal)),
  };
}

// Vega calls every chart "Vega visualization"; ours say their numbers.
function say(host, label) {
  for (const [name, value] of Object.entries({ role: "img", "aria-roledescription": "chart", "aria-label": label })) host.setAttribute(name, value);
}

// Escape takes away a tooltip that hides something.
addEventListener("keydown", ({ key }) => { if (key === "Escape") byId("vg-tooltip-element")?.classList.remove("visible"); });

// ---- Theme: follows the system until the reader chooses ----

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
const showTheme = () => byId("theme").setAttribute("aria-pressed", isDark());
byId("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("batchnorm-theme", theme); } catch { /* storage is forbidden: not remembered */ }
  showTheme();
});
prefersDark.addEventListener("change", showTheme);
showTheme();
// Search and charts of the book, after what it shares with a run's page. The numbers and specifications come with each
// page (#data).

const data = JSON.parse(byId("data").textContent);

// ---- Search: every word must stand somewhere in a claim's text ----

const rows = [...document.querySelectorAll("[data-words]")];
byId("search")?.addEventListener("input", ({ target }) => {
  const wanted = target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    row.hidden = !wanted.every((word) => row.dataset.words.includes(word));
    shown += !row.hidden;
  }
  byId("found").textContent = `${shown} shown`;
  byId("nothing").hidden = shown > 0;
});

// ---- Charts ----

async function draw(host, { chart, rows }) {
  const label = host.getAttribute("aria-label");
  await vegaEmbed(host, filled(chart, rows), { mode: "vega", renderer: "svg", actions: false, tooltip: { theme: "report" } });
  say(host, label);
}

const hosts = [...document.querySelectorAll(".plot")];
// Tests wait for this.
window.reportDrawn = Promise.all(hosts.map((host, number) => draw(host, data.charts[number])));
