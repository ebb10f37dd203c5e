"""The page: one self-contained HTML file from a run."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from batchnorm.records import QUANTILE_LEVELS, FaultRecord, RunRecord, read_faults, write_atomic
from batchnorm.report import charts, payload, sentences, tables, theme
from batchnorm.report.legend import arm_key
from batchnorm.report.parts import part
from batchnorm.report.pictures import write_pictures
from batchnorm.report.vega import browser_bundle, for_page

__all__ = ["render_page", "write_report"]

_ACCURACIES = {
    "train_accuracy": "Training accuracy",
    "test_accuracy_running": "Test accuracy, running statistics",
    "test_accuracy_recalibrated": "Test accuracy, recalibrated statistics",
}


def write_report(run: RunRecord, directory: Path, *, pictures: bool = True) -> Path:
    """Write ``report.html``, and beside it each chart as PNG and SVG.

    Args:
        run: What to show; a run in progress is fine.
        directory: Where the files shall stand, beside the faults that the doctor found; made if absent.
        pictures: Also write ``charts/*.svg`` and ``charts/*.png``, which takes some seconds.

    Returns:
        The path of ``report.html``.

    Raises:
        NotInstalledError: If the ``train`` extra is not installed.
        OSError: As the file system reports it.
    """
    html = render_page(run, read_faults(directory))
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "report.html", html)
    if pictures:
        write_pictures(run, directory / "charts")
    return directory / "report.html"


def render_page(run: RunRecord, faults: Sequence[FaultRecord] = ()) -> str:
    """The page as HTML, under 3 MB, without any address that a browser would fetch.

    Args:
        run: What to show.
        faults: What the doctor found in it.

    Raises:
        NotInstalledError: If the ``train`` extra is not installed.
    """
    run = payload.started(run)
    many_seeds = payload.many_seeds(run)
    shown = payload.thinned(run)
    sample = run.data == "embedded-sample"
    return Template(part("page", "report.html")).substitute(
        title=sentences.title(run),
        name=escape(run.name),
        kind="sample" if sample else "real",
        mark=_SAMPLE_MARK if sample else "",
        lede=sentences.lede(run),
        status=sentences.status(run),
        chips="".join(map(_chip, run.arms)),
        seeds_switch=_SEEDS_SWITCH if many_seeds else "",
        mean_words=sentences.mean_words(run) + sentences.epochs_words(run, shown),
        results=tables.results_table(run),
        seeds=_details("Each seed", tables.seeds_table(run)) if many_seeds else "",
        loss_label=sentences.label(run, "loss", "Loss"),
        train_label=sentences.label(run, "train_accuracy", "Training accuracy"),
        running_label=sentences.label(run, "test_accuracy_running", "Test accuracy with running statistics"),
        recalibrated_label=sentences.label(run, "test_accuracy_recalibrated", "Test accuracy, recalibrated"),
        loss_table=tables.epochs_table(shown, "loss", "Loss by epoch"),
        accuracy_tables="".join(
            tables.epochs_table(shown, name, words) for name, words in _ACCURACIES.items()
        ),
        faults=tables.faults_table(faults),
        config=tables.settings_table("Configuration", run.config),
        environment=tables.settings_table("Environment", run.environment),
        **_embedded(run),
        colours=theme.stylesheet(),
        style=part("page", "report.css"),
        script=part("page", "shared.js") + part("page", "report.js"),
        library=browser_bundle(),
    )


_SAMPLE_MARK = (
    '<div class="mark" role="region" aria-label="Embedded sample"><p>EMBEDDED SAMPLE. Trained and tested'
    " on the small part of Fashion-MNIST that travels in the package. Do not quote these numbers.</p></div>"
)
_SEEDS_SWITCH = '<button type="button" class="chip plain" id="seeds" aria-pressed="true">Seeds</button>'


def _embedded(run: RunRecord) -> Mapping[str, str]:
    """The data of the page and the part of it that shows layers."""
    look = charts.Look(run.arms, theme.variable, payload.many_seeds(run), interactive=True)
    quantiles = payload.quantile_table(run.layers)
    channels = payload.channel_table(run.layers)
    measures = ("loss", *_ACCURACIES)
    epochs = payload.ends(row.epoch for row in run.epochs)
    specs = {name: charts.curve(name, look, charts.ON_PAGE, epochs) for name in measures}
    specs["inputs"] = charts.input_bands(look, charts.ON_PAGE, payload.ends(row.epoch for row in run.layers))
    specs |= {name: charts.agreement(name, look, charts.ON_PAGE) for name in ("mean", "var")}
    specs |= {name: charts.affine(name, look, charts.ON_PAGE) for name in ("weight", "bias")}
    config = theme.vega_config(theme.variable)
    data = {
        "arms": run.arms,
        "overview": payload.overview(run),
        "epochs": payload.epoch_table(payload.thinned(run).epochs),
        "levels": QUANTILE_LEVELS,
        "quantiles": quantiles,
        "channels": channels,
        "charts": {name: for_page(spec, config) for name, spec in specs.items()},
    }
    return {"run": payload.embed(data), "layers": _layers(run, quantiles, channels)}


def _layers(run: RunRecord, quantiles: payload.Table, channels: payload.Table) -> str:
    names = tuple(dict.fromkeys(row.layer for row in run.layers))
    if not names:
        return '<p class="note">This run recorded no layers.</p>'
    together = len(payload.overview(run))
    first = f"All {len(names)}" if together == len(names) else f"{together} of {len(names)}"
    seeds = sorted({row[1] for table in (quantiles, channels) for row in table["rows"]})
    notes = [
        f"the charts of {what} hold {table['left_out']}"
        for what, table in (("inputs", quantiles), ("channels", channels))
        if table["left_out"]
    ]
    if together < len(names):
        notes.append(f"{together} layers are shown, evenly spread, until you choose one")
    note = f'<p class="note">To keep this page small, {"; ".join(notes)}.</p>' if notes else ""
    return Template(part("page", "layers.html")).substitute(
        options=_options([("", first), *((name, name) for name in names)]),
        seed_choice=f'<label>Seed <select id="seed">{_options((s, s) for s in seeds)}</select></label>'
        if len(seeds) > 1
        else "",
        left_out=note,
    )


def _options(pairs: Iterable[tuple[Any, Any]]) -> str:
    return "".join(f'<option value="{escape(str(v))}">{escape(str(words))}</option>' for v, words in pairs)


def _chip(arm: str) -> str:
    return (
        f'<button type="button" class="chip" data-arm="{escape(arm)}" aria-pressed="true">'
        f"{arm_key(arm)}{escape(arm)}</button>"
    )


def _details(words: str, html: str) -> str:
    return f"<details><summary>{words}</summary>{html}</details>"
