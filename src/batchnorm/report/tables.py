"""The tables of the page, as HTML."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from batchnorm.records import EpochRecord, FaultRecord, RunRecord
from batchnorm.report.legend import arm_key
from batchnorm.report.theme import HUGE

__all__ = [
    "ARM_WORDS",
    "cell",
    "epochs_table",
    "faults_table",
    "results_table",
    "seeds_table",
    "settings_table",
    "short",
    "table",
]

ARM_WORDS = {
    "none": "no normalization",
    "batch": "batch normalization",
    "torch": "torch.nn's layer",
    "scratch": "layer from scratch",
}

# The textbook's words for what a run reports, and the digits that mean something.
_MEASURES = (
    ("loss", "loss", ".3f"),
    ("train_accuracy", "train acc", ".3f"),
    ("test_accuracy_running", "test acc, running statistics", ".3f"),
    ("test_accuracy_recalibrated", "test acc, recalibrated", ".3f"),
    ("images_per_second", "examples/sec", ",.0f"),
)


def cell(values: Iterable[float], form: str) -> str:
    """A mean and its standard deviation over seeds, as text; a dagger where seeds are left out.

    Args:
        values: One a seed; those that are not finite (a diverged seed) are left out.
        form: Format of both numbers, as long as they are short.

    Example:
        >>> cell([0.25, 0.75], ".2f"), cell([0.25, float("nan")], ".2f"), cell([float("nan")], ".2f")
        ('0.50 ± 0.35', '0.25†', 'diverged')
        >>> cell([5e19], ".2f")
        '5e+19'
    """
    values = list(values)
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "diverged" if values else "-"
    form = short(form, finite)
    text = format(statistics.fmean(finite), form)
    if len(finite) > 1:
        text += f" ± {format(statistics.stdev(finite), form)}"
    return text + ("†" if len(finite) < len(values) else "")


def short(form: str, values: Iterable[float]) -> str:
    """A format for numbers that may be on their way to infinity: few digits, if one of them is huge."""
    return ".3g" if any(abs(value) >= HUGE for value in values) else form


def results_table(run: RunRecord) -> str:
    """The headline: the last epoch of each arm, mean ± standard deviation over its seeds."""
    last = {arm: _last_rows(run, arm) for arm in run.arms}
    body = [
        [words, *(cell((getattr(row, name) for row in rows), form) for rows in last.values())]
        for name, words, form in _MEASURES
    ]
    marked = [arm for place, arm in enumerate(last, 1) if any("†" in row[place] for row in body)]
    return table(_results_caption(run, marked), ["", *map(_arm, run.arms)], body, kind="headline")


def seeds_table(run: RunRecord) -> str:
    """The last epoch of each arm and seed."""
    body = [
        [
            _arm(arm),
            str(row.seed),
            str(row.epoch),
            *(cell([getattr(row, m)], form) for m, _, form in _MEASURES),
        ]
        for arm in run.arms
        for row in _last_rows(run, arm)
    ]
    heads = ["arm", "seed", "epoch", *(words for _, words, _ in _MEASURES)]
    return table("Each seed at its last epoch", heads, body)


def epochs_table(run: RunRecord, measure: str, words: str) -> str:
    """A measure by epoch and arm: the words of a curve, for those who cannot see it."""
    form = next(form for name, _, form in _MEASURES if name == measure)
    values = defaultdict(list)
    for row in run.epochs:
        values[row.epoch, row.arm].append(getattr(row, measure))
    arms = run.arms
    epochs = sorted({epoch for epoch, _ in values})
    body = [[str(epoch), *(cell(values.get((epoch, arm), ()), form) for arm in arms)] for epoch in epochs]
    return table(words, ["epoch", *map(escape, arms)], body)


def faults_table(faults: Iterable[FaultRecord]) -> str:
    """What the doctor found while the networks were trained, a row a fault; empty without faults."""
    body = [
        [
            _arm(fault.arm),
            str(fault.seed),
            str(fault.epoch),
            f"{fault.finding.severity} {fault.finding.code} {escape(fault.finding.name)}",
            f"<code>{escape(fault.finding.layer or '')}</code>",
            f"{escape(fault.finding.message)} Fix: {escape(fault.finding.fix.text)}.",
        ]
        for fault in faults
    ]
    heads = ["arm", "seed", "epoch", "fault", "layer", "what happened"]
    return table("Found by the doctor during training", heads, body, kind="settings") if body else ""


def settings_table(caption: str, settings: Mapping[str, Any]) -> str:
    """Name and value of each setting; nested ones are named ``outer.inner``."""
    body = [
        [f"<code>{escape(name)}</code>", f"<code>{escape(_setting(value))}</code>"]
        for name, value in _flat(settings)
    ]
    return table(escape(caption), ["setting", "value"], body, kind="settings")


def _results_caption(run: RunRecord, marked: Iterable[str]) -> str:
    seeds = max((len(run.seeds(arm)) for arm in run.arms), default=0)
    words = "At the last epoch"
    if seeds > 1:
        words += f"; mean ± standard deviation over {seeds} seeds"
    diverged = {arm: sum(not _finite(row) for row in _last_rows(run, arm)) for arm in marked}
    broken = [f"{escape(arm)}: {count} of {len(run.seeds(arm))} seeds" for arm, count in diverged.items()]
    return words + (f". † Without seeds that diverged ({', '.join(broken)})" if broken else "")


def _finite(row: EpochRecord) -> bool:
    return all(math.isfinite(getattr(row, name)) for name, *_ in _MEASURES)


def _last_rows(run: RunRecord, arm: str) -> list[EpochRecord]:
    return [run.curve(arm, seed)[-1] for seed in run.seeds(arm)]


def _arm(arm: str) -> str:
    words = ARM_WORDS.get(arm, "")
    return f'<span class="arm">{arm_key(arm)}{escape(arm)}</span> <span class="gloss">{words}</span>'


def _flat(settings: Mapping[str, Any], outer: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def _setting(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(_setting, value))
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def table(caption: str, heads: Sequence[str], body: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """A table in a box that scrolls; ``heads`` and ``body`` are HTML, the first column names rows."""
    head = "".join(f'<th scope="col">{text}</th>' if text else "<td></td>" for text in heads)
    rows = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{text}</td>" for text in rest)}</tr>'
        for first, *rest in body
    )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways">'
        f'<table class="{kind}">'
        f"<caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
