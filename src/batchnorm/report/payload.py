"""The numbers that travel inside the page: rounded, and thinned out where a run is very large."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from batchnorm.records import EpochRecord, LayerRecord, RunRecord

__all__ = [
    "Table",
    "channel_table",
    "embed",
    "ends",
    "epoch_table",
    "many_seeds",
    "objects",
    "overview",
    "quantile_table",
    "spread",
    "started",
    "thinned",
]

Table = dict[str, Any]
"""``columns``: names; ``rows``: a list of values a row; ``left_out``: what was thinned, in words."""

T = TypeVar("T")

# Together under 1.6 MB: with the 0.9 MB of the chart library the page stays well below 3 MB.
QUANTILE_BYTES = 500_000
CHANNEL_BYTES = 1_100_000
# The same for the curves, which also stand there as tables.
CURVE_ROWS = 2_000
OVERVIEW_LAYERS = 6

_KEY = ("arm", "seed", "epoch", "layer")
_CHANNELS = ("running_mean", "running_var", "population_mean", "population_var", "weight", "bias")
_EPOCH = ("arm", "seed", "epoch", "loss", "train_accuracy", "test_accuracy_running")


def epoch_table(rows: Iterable[EpochRecord]) -> Table:
    """What the curves show."""
    columns = (*_EPOCH, "test_accuracy_recalibrated")
    return {"columns": columns, "rows": [_values(row, columns) for row in rows], "left_out": ""}


def quantile_table(rows: Iterable[LayerRecord], budget: int = QUANTILE_BYTES) -> Table:
    """The input of each layer, in all arms.

    Args:
        rows: Layer records of a run.
        budget: Most bytes of JSON.
    """
    return _fit(tuple(rows), (*_KEY, "input_quantiles"), budget)


def channel_table(rows: Iterable[LayerRecord], budget: int = CHANNEL_BYTES) -> Table:
    """Statistics and parameters a channel, of the layers that have any.

    Args:
        rows: Layer records of a run.
        budget: Most bytes of JSON.
    """
    normalizing = tuple(row for row in rows if any(getattr(row, name) is not None for name in _CHANNELS))
    return _fit(normalizing, (*_KEY, *_CHANNELS), budget)


def overview(run: RunRecord) -> tuple[str, ...]:
    """The layers that are shown together: all of a small network, some of a deep one."""
    return spread(tuple(dict.fromkeys(row.layer for row in run.layers)), OVERVIEW_LAYERS)


def started(run: RunRecord) -> RunRecord:
    """The run without the layers of arms that have not ended an epoch: those have no curve yet."""
    arms = run.arms
    return dataclasses.replace(run, layers=tuple(row for row in run.layers if row.arm in arms))


def thinned(run: RunRecord) -> RunRecord:
    """The run with as many epochs, evenly spread, as `CURVE_ROWS` allow; the last of each arm stays."""
    every = sorted({row.epoch for row in run.epochs})
    share = CURVE_ROWS / max(CURVE_ROWS, len(run.epochs))
    kept = set(spread(every, max(2, int(share * len(every)))))
    kept.update({row.arm: row.epoch for row in run.epochs}.values())
    return dataclasses.replace(run, epochs=tuple(row for row in run.epochs if row.epoch in kept))


def many_seeds(run: RunRecord) -> bool:
    """Whether some arm has more than one seed, so that its curves are means."""
    return any(len(run.seeds(arm)) > 1 for arm in run.arms)


def objects(table: Table) -> list[dict[str, Any]]:
    """The rows of a table by column name, as the page's script and Vega-Lite see them."""
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def ends(epochs: Iterable[int]) -> tuple[int, int]:
    """First and last epoch; 1 and 1 before the first has ended."""
    every = sorted(set(epochs))
    return (every[0], every[-1]) if every else (1, 1)


def spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """At most ``count`` of the items, evenly spaced, the first and the last among them.

    Example:
        >>> spread(range(11), 3)
        (0, 5, 10)
    """
    if len(items) <= count:
        return tuple(items)
    if count == 1:
        return (items[-1],)
    return tuple(items[round(i * (len(items) - 1) / (count - 1))] for i in range(count))


def embed(value: Any) -> str:
    r"""JSON that can stand inside a ``<script>`` element: no ``<`` can close it.

    Example:
        >>> embed({"note": "</script>", "loss": [0.25, None]})
        '{"note":"\\u003c/script>","loss":[0.25,null]}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _fit(rows: Sequence[LayerRecord], columns: Sequence[str], budget: int) -> Table:
    """Leave out seeds but the first, then epochs, then layers, until the rest fits the budget.

    In this order because a second seed repeats the picture, while epochs and layers are the picture.
    """
    all_seeds = tuple(sorted({row.seed for row in rows}))
    all_epochs = tuple(sorted({row.epoch for row in rows}))
    all_layers = tuple(dict.fromkeys(row.layer for row in rows))
    seeds, epochs, layers = all_seeds, all_epochs, all_layers
    while True:
        wanted = set(seeds), set(epochs), set(layers)  # a long run has many: a search of tuples takes minutes
        kept = [
            row for row in rows if row.seed in wanted[0] and row.epoch in wanted[1] and row.layer in wanted[2]
        ]
        # Counting spares encoding what cannot fit: a number nearly always takes 7 bytes or more.
        if 7 * sum(_count(row, columns) for row in kept) <= budget:
            values = [_values(row, columns) for row in kept]
            if len(embed(values)) <= budget:
                break
        if len(seeds) > 1:
            seeds = seeds[:1]
        elif len(epochs) > 2:
            epochs = spread(all_epochs, max(2, len(epochs) * 4 // 5))
        elif len(layers) > 1:
            layers = spread(all_layers, len(layers) * 4 // 5)
        else:
            values = []
            break
    left_out = [
        f"{len(some)} of {len(every)} {name}"
        for name, some, every in (
            ("seeds", seeds, all_seeds),
            ("epochs", epochs, all_epochs),
            ("layers", layers, all_layers),
        )
        if len(some) < len(every)
    ]
    if rows and not values:
        left_out = ["nothing"]
    return {"columns": columns, "rows": values, "left_out": ", ".join(left_out)}


def _count(row: LayerRecord, columns: Sequence[str]) -> int:
    """How many numbers the row's lists hold."""
    values = (getattr(row, column) for column in columns)
    return sum(len(value) for value in values if isinstance(value, tuple))


def _values(row: EpochRecord | LayerRecord, columns: Sequence[str]) -> list[Any]:
    return [_short(getattr(row, column)) for column in columns]


def _short(value: Any) -> Any:
    """Floats to 5 significant digits; what is not finite becomes None, as JSON has no word for it."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, tuple):
        return [_short(item) for item in value]
    return value
