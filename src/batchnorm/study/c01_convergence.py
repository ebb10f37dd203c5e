"""C01: batch normalization speeds up convergence."""

import operator
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.results import Results, chosen, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

RATES = (0.04, 0.1, 0.25, 0.6)
QUICK_STEPS, FULL_STEPS = 300, 4000
BOOK = {"activation": "sigmoid", "lr": 1.0}
NORMS = ("none", "batch")
ACCURACIES = (0.8, 0.85)
Arms = dict[tuple[str, float], dict[str, dict[str, Any]]]


def _trials(plan: Plan) -> list[Trial]:
    cells = [{**BOOK, "norm": norm} for norm in NORMS]
    cells += [{"activation": "relu", "norm": norm, "lr": lr} for norm in NORMS for lr in RATES]
    every = 20 if plan.quick else 50
    shared = {"every": every, "until": 0.85, "test_images": 1000 if plan.quick else 2000}
    return lenet_trials(
        plan, [{**shared, **cell} for cell in cells], quick_steps=QUICK_STEPS, full_steps=FULL_STEPS
    )


def _until(accuracy: float, count: str, plan: Plan) -> Callable[[Mapping[str, Any]], float]:
    """Steps or seconds to an accuracy; of all steps allowed, if it was not reached.

    A training that lost its loss ended early: it is charged as if it had gone on at its pace.
    """
    allowed = QUICK_STEPS if plan.quick else FULL_STEPS

    def measure(result: Mapping[str, Any]) -> float:
        curve = result["curve"]
        reached = [n for n, share in zip(curve[count], curve["accuracy"], strict=True) if share >= accuracy]
        return float(reached[0] if reached else curve[count][-1] * allowed / curve["steps"][-1])

    return measure


def _top(result: Mapping[str, Any]) -> float:
    return float(max(result["curve"]["accuracy"]))


def _best(results: Results, norm: str, accuracy: float, plan: Plan) -> dict[str, Any]:
    """The arm with ReLU at the rate with the fewest steps, in the mean over seeds.

    Where no rate gets there, all have the same steps: then the one that came nearest.
    """
    cells: list[dict[str, Any]] = [{"activation": "relu", "norm": norm, "lr": lr} for lr in RATES]

    def merit(cell: Mapping[str, Any]) -> tuple[float, float]:
        steps = results.per_seed(_until(accuracy, "steps", plan), **cell).values()
        tops = results.per_seed(_top, **cell).values()
        return statistics.fmean(steps), -statistics.fmean(tops)

    return min((cell for cell in cells if results.where(**cell).rows), key=merit, default=cells[0])


def _read(results: Results, plan: Plan) -> Reading:
    arms: Arms = {("book", 0.8): {norm: {**BOOK, "norm": norm} for norm in NORMS}}
    arms |= {
        ("best", accuracy): {norm: _best(results, norm, accuracy, plan) for norm in NORMS}
        for accuracy in ACCURACIES
    }

    def ratio(which: str, accuracy: float, count: str) -> list[float]:
        pair = arms[which, accuracy]
        if all(_cut_short(results, pair[norm], accuracy) for norm in NORMS):
            return []  # of two that were stopped nobody knows the ratio
        none, batch = (results.per_seed(_until(accuracy, count, plan), **pair[norm]) for norm in NORMS)
        return compare(operator.truediv, none, batch)

    def bound(which: str, accuracy: float) -> str:
        cut = [norm for norm in NORMS if _cut_short(results, arms[which, accuracy][norm], accuracy)]
        return {"none": "at least", "batch": "at most"}[cut[0]] if len(cut) == 1 else ""

    asked = {
        "steps, textbook": ("book", 0.8, "steps"),
        "steps to 80 %": ("best", 0.8, "steps"),
        "steps to 85 %": ("best", 0.85, "steps"),
        "seconds to 80 %": ("best", 0.8, "seconds"),
        "seconds to 85 %": ("best", 0.85, "seconds"),
    }
    return Reading(
        effects={name: ratio(*question) for name, question in asked.items()},
        bounds={name: bound(which, accuracy) for name, (which, accuracy, _) in asked.items()},
        figures=[
            Figure(
                name="steps",
                title="Steps to 80 % test accuracy by learning rate, ReLU (all steps, if it was not reached)",
                mark="line",
                x="learning rate",
                y="steps",
                band="95 % t interval over seeds",
                rows=tuple(
                    row
                    for norm in NORMS
                    for row in results.where(activation="relu").points(
                        "lr", _until(0.8, "steps", plan), norm, norm=norm
                    )
                ),
                x_scale="log",
                y_scale="log",
            ),
            _curves(results, arms),
        ],
        notes=[
            _told(results, which, accuracy, arm)
            for (which, accuracy), pair in arms.items()
            for arm in pair.values()
            if results.where(**arm).rows
        ],
    )


def _cut_short(results: Results, arm: Mapping[str, Any], accuracy: float) -> bool:
    """Whether some seed was stopped before it got there."""
    return any(top < accuracy for top in results.per_seed(_top, **arm).values())


def _told(results: Results, which: str, accuracy: float, arm: Mapping[str, Any]) -> str:
    tops = results.per_seed(_top, **arm).values()
    where = "In the textbook's setting" if which == "book" else f"With ReLU, at {chosen(arm['lr'], RATES)},"
    reached = sum(top >= accuracy for top in tops)
    return f"{where} arm {arm['norm']} reached {accuracy:.0%} on {reached} of {len(tops)} seeds."


def _curves(results: Results, arms: Arms) -> Figure:
    rows = []
    for which, words in (("book", "sigmoid, rate 1.0"), ("best", "ReLU, own best rate to 80 %")):
        for norm, arm in arms[which, 0.8].items():
            for row in results.where(**arm).rows[:1]:
                curve = row.result["curve"]
                rows += [
                    {"series": norm, "x": step, "mean": share, "low": share, "high": share, "facet": words}
                    for step, share in zip(curve["steps"], curve["accuracy"], strict=True)
                ]
    return Figure(
        "curves", "Test accuracy by step, first seed", "line", "step", "test accuracy", "none, one seed",
        tuple(rows),
    )  # fmt: skip


STUDY = Study(
    id="c01",
    name="convergence",
    claim="Batch normalization speeds up convergence.",
    hypothesis="LeNet with batch normalization reaches 80 % and 85 % test accuracy in fewer steps, in the "
    "textbook's setting and with each arm at its own best learning rate; and in fewer seconds, though a step "
    "costs more.",
    held_equal="Initial weights, order of batches, batches of 64, plain SGD. Textbook's setting: sigmoid, "
    "learning rate 1.0. Own best: ReLU, the rate of 0.04, 0.1, 0.25 and 0.6 with the fewest steps to the "
    "accuracy in question.",
    measure="Steps and processor seconds (of one thread, without testing) until a test, taken every 20 "
    "steps, 50 in the full profile, first finds the accuracy with recalibrated statistics. A run that never "
    "does counts with all the steps allowed, and the ratio is a bound; where both arms have such runs, "
    "there is none.",
    against="A ratio, without over with, whose interval reaches 1.",
    conditions=(
        Condition("steps, textbook", "steps to 80 % in the textbook's setting", "above", 1.0, "×"),
        Condition("steps to 80 %", "steps to 80 %, own best rates", "above", 1.0, "×"),
        Condition("steps to 85 %", "steps to 85 %, own best rates", "above", 1.0, "×"),
        Condition("seconds to 80 %", "processor seconds to 80 %, own best rates", "above", 1.0, "×"),
        Condition("seconds to 85 %", "processor seconds to 85 %, own best rates", "above", 1.0, "×"),
    ),
    trials=_trials,
    read=_read,
)
