// Charts and controls, after what the pages share. The numbers and the chart specifications come with the page (#run);
// here rows are chosen for the state of the controls and handed to Vega. Colours are CSS variables.

const run = JSON.parse(byId("run").textContent);
const objects = ({ columns, rows }) => rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));
const epochs = objects(run.epochs), quantiles = objects(run.quantiles), channels = objects(run.channels);
const unique = (values) => [...new Set(values)];

const steps = unique(channels.map((row) => row.epoch)).sort((a, b) => a - b);
const state = {
  hidden: new Set(), seeds: true, layer: "", sameScale: true,
  seed: byId("seed") ? Number(byId("seed").value) : quantiles[0]?.seed, epoch: steps[steps.length - 1],
};
const isShown = (row) => !state.hidden.has(row.arm);

// ---- One chart: drawn once, then only its rows and bounds change ----

class Chart {
  // `arm`: the only arm it shows, if there is one; then it is hidden with its arm.
  constructor(host, spec, choose, arm) {
    Object.assign(this, { host, spec, choose, arm, done: Promise.resolve() });
  }

  refresh() {
    // One after another: a second click may come while the first is being drawn.
    this.done = this.done.then(() => this.draw());
    return this.done;
  }

  async draw() {
    const { rows, low, high, label } = this.choose();
    const params = { low, high, seeds: state.seeds };
    this.label = label ?? this.label ?? this.host.getAttribute("aria-label");
    this.host.parentElement.hidden = state.hidden.has(this.arm);
    if (this.host.parentElement.hidden) return;
    this.host.querySelector(".missing")?.remove();
    if (!this.view) {
      const tooltip = { theme: "report" };
      const options = { mode: "vega", renderer: "svg", actions: false, tooltip };
      this.view = (await vegaEmbed(this.host, filled(this.spec, rows, params), options)).view;
    } else {
      for (const [name, value] of Object.entries(params)) this.view.signal(name, value);
      await this.view.data("rows", rows).runAsync();
      this.fit(); // the window may have changed while the chart was hidden
    }
    say(this.host, this.label);
    if (!rows.length) this.host.append(element("p", { class: "missing" }, "not recorded"));
  }

  // Vega follows the window; paper is no window. Takes effect before the next task, so in time to print.
  fit() {
    const { clientWidth, clientHeight } = this.host;
    if (clientWidth) this.view?.signal("width", clientWidth).signal("height", clientHeight).run();
  }

  remove() {
    this.done.then(() => this.view?.finalize());
  }
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function bounds(numbers, margin = 0) {
  let low = Infinity, high = -Infinity;
  for (const number of numbers) {
    if (number === null) continue;
    if (number < low) low = number;
    if (number > high) high = number;
  }
  if (low > high) return { low: 0, high: 1 };
  const extra = margin * (high - low) || (low === high ? Math.abs(low) || 1 : 0);
  return { low: low - extra, high: high + extra };
}

const short = (number) => number?.toPrecision(3).replace("-", "−") ?? "–";

// The ends of some numbers, in words.
function ends(numbers) {
  const { low, high } = bounds(numbers);
  return numbers.length ? `${short(low)} to ${short(high)}` : "not recorded";
}

// ---- Curves ----

const accuracies = ["train_accuracy", "test_accuracy_running", "test_accuracy_recalibrated"];
const curves = [...document.querySelectorAll("[data-chart]")].map((host) => {
  const measure = host.dataset.chart;
  const scale = accuracies.includes(measure) ? accuracies : [measure];
  return new Chart(host, run.charts[measure], () => {
    const rows = epochs.filter(isShown);
    return { rows, ...bounds(rows.flatMap((row) => scale.map((name) => row[name]))) };
  });
});

// ---- Layers: a cell a layer, a chart an arm (inputs) or a statistic (the other two) ----

const kinds = {
  inputs: {
    size: "",
    panels: run.arms.map((arm) => [arm, "inputs", arm]),
    choose: (layer, arm) => {
      const of = (row) => row.layer === layer && row.seed === state.seed;
      const rows = quantiles.filter((row) => of(row) && row.arm === arm);
      const scale = state.sameScale ? quantiles.filter((row) => of(row) && isShown(row)) : rows;
      return { rows, ...bounds(scale.flatMap((row) => row.input_quantiles)), label: `Bands by epoch: input of ${layer}, arm ${arm}. ${[rows[0], rows.at(-1)].map(inputWords).join("; ")}.` };
    },
  },
  statistics: {
    size: "square",
    panels: [["mean", "mean"], ["variance", "var"]],
    choose: (layer, words, name) => {
      const rows = channelRows(layer);
      const values = rows.flatMap((row) => [...(row[`running_${name}`] ?? []), ...(row[`population_${name}`] ?? [])]);
      return { rows, ...bounds(values, 0.06), label: `Scatter: running against population ${words} of each channel of ${layer}, epoch ${state.epoch}. ${rows.map((row) => agreementWords(row, name)).join("; ")}.` };
    },
  },
  affine: {
    size: "low",
    panels: [["gamma", "weight"], ["beta", "bias"]],
    choose: (layer, words, name) => {
      const start = name === "weight" ? 1 : 0;
      // Bounds over all epochs: while the slider moves, the axis stands still.
      const all = channels.filter((row) => row.layer === layer && row.seed === state.seed && isShown(row));
      const values = all.flatMap((row) => row[name] ?? []);
      return { rows: channelRows(layer), ...bounds([start, ...values], 0.06), label: `Points: ${words} of each channel of ${layer}, epoch ${state.epoch}. ${channelRows(layer).map((row) => `${row.arm}: ${ends(row[name] ?? [])}`).join("; ")}.` };
    },
  },
};

const channelRows = (layer) =>
  channels.filter((row) => row.layer === layer && row.seed === state.seed && row.epoch === state.epoch && isShown(row));

const inputWords = (row) => (row ? `Epoch ${row.epoch}: median ${short(row.input_quantiles[run.levels.indexOf(0.5)])}, 98 % from ${ends(row.input_quantiles)}` : "Not recorded");
const agreementWords = (row, name) => `${row.arm}: running ${ends(row[`running_${name}`] ?? [])}, population ${ends(row[`population_${name}`] ?? [])}`;

let cells = [];

function buildCells() {
  cells.forEach((chart) => chart.remove());
  cells = [];
  const layers = shownLayers();
  for (const grid of document.querySelectorAll("section:not([hidden]) > [data-kind]")) {
    const kind = kinds[grid.dataset.kind];
    grid.replaceChildren(...layers.map((layer) => {
      const panels = element("div", { class: "panels" });
      for (const [words, name, arm] of kind.panels) {
        const host = element("div", { class: `plot ${kind.size}`, role: "img" });
        panels.append(element("div", { class: "panel" }, element("h5", {}, words), host));
        cells.push(new Chart(host, run.charts[name], () => kind.choose(layer, words, name), arm));
      }
      return element("div", { class: "cell" }, element("h4", {}, layer), panels);
    }));
  }
}

// ---- What the layers' charts show as tables, for those who cannot see or want the digits ----

const shownLayers = () => (state.layer ? [state.layer] : run.overview);
const columns = ["running_mean", "population_mean", "running_var", "population_var", "weight", "bias"];
const tables = {
  quantiles: {
    caption: () => `Seed ${state.seed}; the share of the values that lie below`,
    heads: ["layer", "arm", "epoch", ...run.levels.map((level) => `${Math.round(100 * level)} %`)],
    rows: () => shownLayers().flatMap((layer) => quantiles
      .filter((row) => row.layer === layer && row.seed === state.seed && isShown(row))
      .map((row) => [row.layer, row.arm, row.epoch, ...row.input_quantiles])),
  },
  values: {
    caption: () => `Epoch ${state.epoch}, seed ${state.seed}`,
    heads: ["layer", "arm", "channel", ...columns],
    rows: () => shownLayers().flatMap(channelRows).flatMap((row) => {
      const count = Math.max(...columns.map((name) => row[name]?.length ?? 0));
      return Array.from({ length: count }, (_, channel) => [row.layer, row.arm, channel, ...columns.map((name) => row[name]?.[channel])]);
    }),
  },
};

function fillTables() {
  for (const [id, { caption, heads, rows }] of Object.entries(tables)) {
    if (!byId(id)?.open) continue;
    const table = element("table", { class: "numbers" }, element("caption", {}, caption()),
      element("thead", {}, element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows().map(([layer, arm, place, ...numbers]) =>
        element("tr", {}, element("th", { scope: "row" }, layer), element("td", {}, arm), element("td", {}, place),
          ...numbers.map((number) => element("td", {}, number?.toPrecision(4) ?? "–"))))));
    byId(id).lastElementChild.replaceChildren(element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table, scrolls sideways" }, table));
  }
}

function refresh(charts) {
  for (const at of document.querySelectorAll(".at")) at.textContent = steps.length ? `at epoch ${state.epoch}` : "";
  if (byId("epoch-now")) byId("epoch-now").textContent = state.epoch ?? "–";
  fillTables();
  return Promise.all(charts.map((chart) => chart.refresh()));
}

// ---- Controls ----

function on(id, event, action) {
  byId(id)?.addEventListener(event, (happened) => action(happened.currentTarget));
}

function flip(button) {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", pressed);
  return pressed;
}

for (const chip of document.querySelectorAll("[data-arm]")) {
  chip.addEventListener("click", () => {
    state.hidden[flip(chip) ? "delete" : "add"](chip.dataset.arm);
    refresh([...curves, ...cells]);
  });
}
on("seeds", "click", (button) => { state.seeds = flip(button); refresh(curves); });
on("layer", "change", (select) => { state.layer = select.value; buildCells(); refresh(cells); });
on("seed", "change", (select) => { state.seed = Number(select.value); refresh(cells); });
on("same-scale", "change", (box) => { state.sameScale = box.checked; refresh(cells); });
for (const id of Object.keys(tables)) on(id, "toggle", fillTables);
on("epoch", "input", (slider) => { state.epoch = steps[slider.value]; refresh(cells); });

for (const part of document.querySelectorAll(".of-channels")) part.hidden = !steps.length;
if (byId("epoch")) {
  const slider = byId("epoch");
  slider.max = Math.max(steps.length - 1, 0);
  slider.value = slider.max;
  slider.disabled = steps.length < 2;
}

for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    document.body.classList.toggle("printing", printing);
    [...curves, ...cells].forEach((chart) => chart.fit());
  });
}

buildCells();
// Tests and anyone who prints wait for this.
window.reportDrawn = refresh([...curves, ...cells]);
