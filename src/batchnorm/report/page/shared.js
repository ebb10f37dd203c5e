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
