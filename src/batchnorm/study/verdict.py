"""The rule that turns effects into a verdict, one for all studies.

A claim is cut into conditions. A condition is met if the whole 95 % interval of its effect lies on the
stated side of its bound: Student's t over seeds, of paired differences or of the logarithms of paired
ratios; where there is no chance, every value. All conditions met: *holds*. None: *does not hold here*.
Some: *holds in part*. A condition with fewer than two seeds (or, where there is
no chance, without a value) is unmet; if all are like that: *not measured*.
"""

import dataclasses
import math
from collections.abc import Sequence

from batchnorm.records import EffectRecord, TrialRecord, VerdictRecord
from batchnorm.study.intervals import mean_interval
from batchnorm.study.results import Results
from batchnorm.study.study import Condition, Plan, Study

__all__ = ["judge", "measure_effect", "verdict_of"]


def judge(
    study: Study, plan: Plan, rows: Sequence[TrialRecord], environment: dict[str, str]
) -> VerdictRecord:
    """The verdict of a study from the records of all its trials.

    Args:
        study: What was asked.
        plan: How.
        rows: Its trials, done and failed.
        environment: For the record.
    """
    done = tuple(row for row in rows if row.status == "done")
    reading = study.read(Results(done), plan)
    effects = tuple(
        measure_effect(each, reading.effects.get(each.name, ()), reading.bounds.get(each.name))
        for each in study.conditions
    )
    failed = [row for row in rows if row.status == "failed"]
    notes = [*reading.notes]
    if failed:
        notes.append(f"{len(failed)} of {len(rows)} trials failed, the first with {failed[0].error}")
    words = ("study", "name", "claim", "hypothesis", "held_equal", "measure", "against")
    return VerdictRecord(
        study=study.id,
        **{word: getattr(study, word) for word in words[1:]},
        verdict=verdict_of(effects),
        effects=effects,
        figures=tuple(reading.figures),
        notes=tuple(notes),
        profile=plan.profile,
        seeds=tuple(sorted({row.seed for row in rows})),
        data=plan.data,
        trials=len(done),
        failed=len(failed),
        cpu_seconds=sum(row.cpu_seconds for row in rows),
        command=f"batchnorm study {study.name} --profile {plan.profile} --seeds {len(plan.seeds)}",
        environment=environment,
    )


def measure_effect(
    condition: Condition, values: Sequence[float], cut_short: str | None = None
) -> EffectRecord:
    """Mean and interval of one effect, and whether its condition is met.

    A value that is not a number (a loss that was lost) makes the interval unbounded: not met. So does a
    ratio of 0 or less, which has no logarithm.

    Args:
        condition: What is asked.
        values: One a seed.
        cut_short: ``at least`` or ``at most``, if the values are such bounds; told with the method.
    """
    values = tuple(map(float, values))
    fields = {field.name: getattr(condition, field.name) for field in dataclasses.fields(condition)}
    exact = fields.pop("exact")
    ratio = condition.unit == "×"
    method = "exact" if exact else "t of logarithms" if ratio else "t"
    if cut_short:
        method = f"{method}, {cut_short}"
    if not values:
        return EffectRecord(**fields, method=method, values=(), mean=math.nan, low=math.nan, high=math.nan)
    if not all(map(math.isfinite, values)) or (ratio and not exact and min(values) <= 0):
        mean, low, high = math.nan, -math.inf, math.inf
    elif exact:
        low, high = min(values), max(values)
        mean = low if condition.side == "above" else high
    elif ratio:
        mean, low, high = map(_exponential, mean_interval([math.log(value) for value in values]))
    else:
        mean, low, high = mean_interval(values)
    met: bool | None = low > condition.bound if condition.side == "above" else high < condition.bound
    if len(values) < 2 and not exact:
        met = None
    return EffectRecord(**fields, method=method, values=values, mean=mean, low=low, high=high, met=met)


def _exponential(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def verdict_of(effects: Sequence[EffectRecord]) -> str:
    """All conditions met, some, or none; see the head of this file."""
    if all(effect.met is None for effect in effects):
        return "not measured"
    met = [bool(effect.met) for effect in effects]
    return "holds" if all(met) else "holds in part" if any(met) else "does not hold here"
