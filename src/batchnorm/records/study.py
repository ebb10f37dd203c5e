"""What a study leaves behind: a row a trial, and the verdict that was computed from them.

``studies/<id>-<name>/`` holds ``trials.jsonl`` (a `TrialRecord` a line) and ``verdict.json``
(a `VerdictRecord`).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchnorm.records.record import Record

__all__ = ["VERDICTS", "EffectRecord", "Figure", "TrialRecord", "VerdictRecord", "read_verdicts"]

VERDICTS = ("holds", "holds in part", "does not hold here", "not measured")


@dataclasses.dataclass(frozen=True)
class TrialRecord(Record):
    """One trial: what was asked, and what came out or went wrong.

    Attributes:
        key: Of function, settings, seed, code and torch's version: equal keys have equal results.
        function: Module and name of what ran.
        settings: Its arguments but the seed.
        seed: Its seed.
        status: ``done`` or ``failed``.
        result: What it returned; empty if it failed.
        error: Why it failed, or empty.
        seconds: Wall clock.
        cpu_seconds: Of the process and those that it started; on a busy machine less than ``seconds``.
    """

    key: str
    function: str
    settings: Mapping[str, Any]
    seed: int
    status: str
    result: Mapping[str, Any]
    error: str
    seconds: float
    cpu_seconds: float


@dataclasses.dataclass(frozen=True)
class EffectRecord(Record):
    """One condition of a claim, with the effect that was measured.

    Attributes:
        name: Short, unique in its study.
        text: The condition in words, as it was stated before the study ran.
        side: ``above`` or ``below``: where the effect must lie.
        bound: The number it must lie above or below.
        unit: Of the effect; ``×`` for a ratio.
        method: How the interval was taken: ``t``, ``t of logarithms`` or ``exact``.
        values: The effect of each seed, in the order of the seeds.
        mean: Of the values; geometric for a ratio; for ``exact`` the value nearest to the bound.
        low: Lower end of the 95 % interval.
        high: Upper end.
        met: Whether the whole interval lies on the stated side; None if there were too few values to tell.
    """

    name: str
    text: str
    side: str
    bound: float
    unit: str
    method: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    met: bool | None = None


@dataclasses.dataclass(frozen=True)
class Figure(Record):
    """A chart as data: rows, and which of their fields stands where.

    Attributes:
        name: Unique in its study.
        title: What is to be seen.
        mark: ``line``, or ``dot`` for a horizontal axis of names.
        x: Field of the horizontal axis; its title.
        y: Title of the vertical axis; the rows hold ``mean`` and the ends of a band, ``low`` and ``high``.
        band: What the band is, in words.
        rows: Objects with ``series``, ``x``, ``mean``, ``low``, ``high`` and, with facets, ``facet``.
        x_scale: ``linear``, ``log`` or ``nominal``.
        y_scale: ``linear`` or ``log``.
    """

    name: str
    title: str
    mark: str
    x: str
    y: str
    band: str
    rows: tuple[Mapping[str, Any], ...]
    x_scale: str = "linear"
    y_scale: str = "linear"


@dataclasses.dataclass(frozen=True)
class VerdictRecord(Record):
    """The end of a study.

    Attributes:
        study: Its identifier, ``c01`` to ``c14``.
        name: Its name, as ``convergence``.
        claim: The textbook's claim.
        hypothesis: What it means here; stated before the study ran, as are the next three.
        held_equal: What the compared trials share.
        measure: What was measured, and how.
        against: What would count against the claim.
        verdict: One of `VERDICTS`.
        effects: Its conditions.
        figures: Its charts.
        notes: Sentences made of the numbers.
        profile: ``quick`` or ``full``.
        seeds: The seeds.
        data: Which images.
        trials: How many trials the verdict rests on.
        failed: How many failed.
        cpu_seconds: Of all its trials.
        command: Redoes it.
        environment: Versions, commit, processor.
    """

    study: str
    name: str
    claim: str
    hypothesis: str
    held_equal: str
    measure: str
    against: str
    verdict: str
    effects: tuple[EffectRecord, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]
    profile: str
    seeds: tuple[int, ...]
    data: str
    trials: int
    failed: int
    cpu_seconds: float
    command: str
    environment: Mapping[str, Any]


def read_verdicts(directory: str | Path) -> tuple[VerdictRecord, ...]:
    """The verdicts of a directory of studies, in the order of their identifiers.

    Args:
        directory: As written by ``batchnorm study``.

    Raises:
        FileNotFoundError: If no study there has a verdict.
        ValueError: If a verdict cannot be read; the text names the file.
    """
    paths = sorted(Path(directory).glob("*/verdict.json"))
    if not paths:
        raise FileNotFoundError(f"read_verdicts: directory expected */verdict.json, got none in {directory}")
    return tuple(map(_read, paths))


def _read(path: Path) -> VerdictRecord:
    try:
        return VerdictRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"read_verdicts: {path} expected a verdict, got {error}") from error
