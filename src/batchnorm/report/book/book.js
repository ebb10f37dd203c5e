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
