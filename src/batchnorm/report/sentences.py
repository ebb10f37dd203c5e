"""The sentences of the page that depend on the run, as HTML."""

import math
from html import escape

from batchnorm.records import RunRecord
from batchnorm.report import payload, tables

__all__ = ["epochs_words", "label", "lede", "mean_words", "status", "title"]

# What the reader is shown first about a model; any other name is shown as it is.
_MODELS = {"lenet": "LeNet", "resnet20": "ResNet-20", "resnet56": "ResNet-56", "resnet110": "ResNet-110"}


def title(run: RunRecord) -> str:
    """What was compared."""
    model = str(run.config.get("model", run.name))
    words = "with and without" if {"none"} < set(run.arms) else "without" if run.arms == ("none",) else "with"
    return escape(f"{_MODELS.get(model, model)} {words} batch normalization")


def lede(run: RunRecord) -> str:
    """One sentence on what was asked for, from the settings that are there."""
    config = run.config
    parts = ["A small part of Fashion-MNIST" if run.data == "embedded-sample" else "Fashion-MNIST"]
    for key, words in (
        ("epochs", "{} epochs"),
        ("batch_size", "batches of {}"),
        ("optimizer", "{}"),
        ("lr", "learning rate {}"),
    ):
        if config.get(key) is not None:
            value = str(config[key])
            text = words.format(value.upper() if key == "optimizer" else value)
            parts.append("1 epoch" if text == "1 epochs" else text)
    parts.append(_seeds(tuple(dict.fromkeys(row.seed for row in run.epochs))))
    return escape(", ".join(parts)) + "."


def mean_words(run: RunRecord) -> str:
    """How a caption goes on where a curve is a mean over seeds."""
    if not payload.many_seeds(run):
        return ""
    words = "; thick the mean over seeds, thin each seed"
    diverged = any(not math.isfinite(row.loss) for row in run.epochs)
    return words + (", each as far as it is finite" if diverged else "")


def epochs_words(run: RunRecord, shown: RunRecord) -> str:
    """How a caption goes on where curves and tables do not have every epoch."""
    some, every = (len({row.epoch for row in one.epochs}) for one in (shown, run))
    return f"; {some:,} of {every:,} epochs, to keep this page small" if some < every else ""


def status(run: RunRecord) -> str:
    """A line on a run that has not ended, or nothing."""
    planned = run.config.get("epochs")
    arms, seeds = (tuple(run.config.get(key) or ()) for key in ("arms", "seeds"))
    total = len(arms or run.arms) * len(seeds or {row.seed for row in run.epochs}) * (planned or 0)
    if not isinstance(planned, int) or len(run.epochs) >= total:
        return ""
    return f'<p class="status">In progress: {len(run.epochs)} of {total} epochs, over all arms and seeds.</p>'


def label(run: RunRecord, measure: str, words: str) -> str:
    """What a curve shows, for a screen reader: where each arm starts and ends."""
    parts = []
    for arm in run.arms:
        first, last = payload.ends(row.epoch for row in run.epochs if row.arm == arm)
        ends = [
            tables.cell((getattr(r, measure) for r in run.epochs if (r.arm, r.epoch) == (arm, epoch)), ".3f")
            for epoch in (first, last)
        ]
        parts.append(f"{arm}: {ends[0]} at epoch {first}, {ends[1]} at epoch {last}")
    return escape(f"Line chart: {words} by epoch. {'; '.join(parts)}.")


def _seeds(seeds: tuple[int, ...]) -> str:
    if len(seeds) < 2:
        return f"seed {seeds[0]}" if seeds else "no epoch yet"
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"
