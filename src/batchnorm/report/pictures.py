"""Each chart as SVG and PNG, for slides and papers: white paper, legend and title inside."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchnorm.records import RunRecord, write_atomic
from batchnorm.report import charts, payload, theme
from batchnorm.report.vega import vl_convert

__all__ = ["bounds_of", "picture_specs", "write_pictures"]

_ACCURACIES = {
    "train_accuracy": "training",
    "test_accuracy_running": "test, running statistics",
    "test_accuracy_recalibrated": "test, recalibrated statistics",
}


def write_pictures(run: RunRecord, directory: Path) -> list[Path]:
    """Write ``NAME.svg`` and ``NAME.png`` (twice the size, for sharp screens) of each chart.

    Args:
        run: What to show.
        directory: Made if absent.

    Returns:
        The paths written.

    Raises:
        NotInstalledError: If the ``train`` extra is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, spec in picture_specs(run).items():
        svg = vl_convert().vegalite_to_svg(spec)
        for path, content in (
            (directory / f"{name}.svg", svg),
            (directory / f"{name}.png", vl_convert().svg_to_png(svg, scale=2)),
        ):
            write_atomic(path, content)
            paths.append(path)
    return paths


def picture_specs(run: RunRecord) -> dict[str, charts.Spec]:
    """Complete Vega-Lite specifications by name.

    ``loss``, ``accuracy``, ``inputs`` and, with batch normalization, ``statistics`` and ``affine``.
    The layers are those of `batchnorm.report.payload.overview`, with the first seed; statistics and
    parameters at the last epoch.
    """
    run = payload.started(run)
    look = charts.Look(run.arms, theme.light, payload.many_seeds(run), interactive=False)
    specs: dict[str, charts.Spec] = {}
    if run.epochs:
        specs |= _curves(run, look)
    if run.layers:
        specs |= _layers(run, look)
    return specs


def _curves(run: RunRecord, look: charts.Look) -> dict[str, charts.Spec]:
    rows = payload.objects(payload.epoch_table(run.epochs))
    epochs = payload.ends(row.epoch for row in run.epochs)

    def panel(measure: str, scale: Sequence[str], title: str, width: int) -> charts.Spec:
        bounds = bounds_of(row[name] for row in rows for name in scale)
        chart = charts.curve(measure, look, bounds, epochs)
        return _panel(chart, rows, title, width, 260)

    accuracies = [panel(name, tuple(_ACCURACIES), words, 250) for name, words in _ACCURACIES.items()]
    return {
        "loss": _picture(run, "Training loss by epoch", [panel("loss", ["loss"], "", 560)], 1),
        "accuracy": _picture(run, "Accuracy by epoch", accuracies, 3),
    }


def _layers(run: RunRecord, look: charts.Look) -> dict[str, charts.Spec]:
    layers, seed = payload.overview(run), run.layers[0].seed
    shown = [row for row in run.layers if row.layer in layers and row.seed == seed]
    quantiles = payload.objects(payload.quantile_table(shown))
    channels = payload.objects(payload.channel_table(shown))
    epochs = payload.ends(row.epoch for row in shown)
    last = max((row["epoch"] for row in channels), default=0)
    note = (
        f"seed {seed}"
        if len(layers) == len({row.layer for row in run.layers})
        else f"some layers, seed {seed}"
    )

    inputs = []
    for layer in layers:
        here = [row for row in quantiles if row["layer"] == layer]
        bounds = bounds_of(value for row in here for value in row["input_quantiles"])
        for arm in run.arms:
            chart = charts.input_bands(look, bounds, epochs)
            inputs.append(
                _panel(chart, [row for row in here if row["arm"] == arm], f"{layer}, {arm}", 230, 130)
            )
    specs = {"inputs": _picture(run, f"Input of each layer by epoch, {note}", inputs, len(run.arms))}
    if not channels:
        return specs

    normalizing = {row["arm"] for row in channels}
    look = dataclasses.replace(look, arms=tuple(arm for arm in look.arms if arm in normalizing))
    now = [row for row in channels if row["epoch"] == last]
    statistics, affine = [], []
    for layer in layers:
        here = [row for row in now if row["layer"] == layer]
        for words, name in (("mean", "mean"), ("variance", "var")):
            bounds = bounds_of(_values(here, f"running_{name}", f"population_{name}"), 0.06)
            statistics.append(
                _panel(charts.agreement(name, look, bounds), here, f"{layer}, {words}", 150, 150)
            )
        for words, name, start in (("gamma", "weight", 1.0), ("beta", "bias", 0.0)):
            bounds = bounds_of([start, *_values(here, name)], 0.06)
            affine.append(_panel(charts.affine(name, look, bounds), here, f"{layer}, {words}", 200, 110))
    return specs | {
        "statistics": _picture(
            run, f"Running against population statistics, epoch {last}, {note}", statistics, 4
        ),
        "affine": _picture(run, f"Scale and shift, epoch {last}, {note}", affine, 4),
    }


def _values(rows: Iterable[Mapping[str, Any]], *names: str) -> Iterable[float | None]:
    """Everything the rows hold under the names; a row without a name's list adds nothing."""
    return (value for row in rows for name in names for value in row[name] or ())


def _picture(run: RunRecord, title: str, panels: Sequence[charts.Spec], columns: int) -> charts.Spec:
    """Panels under one title; a run on the sample says so in red, whatever page it ends up on."""
    sample = {
        "subtitle": "EMBEDDED SAMPLE: a small part of Fashion-MNIST, not to be quoted",
        "subtitleColor": theme.light("alert"),
        "subtitleFontWeight": "bold",
    }
    return {
        "title": {
            "text": title,
            "fontSize": 18,
            "offset": 12,
            **(sample if run.data == "embedded-sample" else {}),
        },
        "concat": list(panels),
        "columns": columns,
        "resolve": {"scale": {"color": "shared", "strokeDash": "shared", "shape": "shared"}},
        "padding": 20,
        "config": {**theme.vega_config(theme.light), "background": theme.light("paper")},
    }


def _panel(
    chart: charts.Spec, rows: Sequence[Mapping[str, Any]], title: str, width: int, height: int
) -> charts.Spec:
    named = {"title": {"text": title, "fontSize": 12}} if title else {}
    return {**chart, **named, "data": {"values": list(rows)}, "width": width, "height": height}


def bounds_of(values: Iterable[float | None], margin: float = 0.0) -> tuple[float, float]:
    """Smallest and largest value with a share of their distance added on both ends."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return 0.0, 1.0
    low, high = min(numbers), max(numbers)
    extra = margin * (high - low) or (abs(low) or 1.0 if low == high else 0.0)
    return low - extra, high + extra
