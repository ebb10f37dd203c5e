"""C1: batch normalization speeds up convergence."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.results import PerSeed, Results, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

RATES = (0.04, 0.1, 0.25, 0.6)
BOOK = {"activation": "sigmoid", "lr": 1.0}


def _trials(plan: Plan) -> list[Trial]:
    cells = [{**BOOK, "norm": norm} for norm in ("none", "batch")]
    cells += [{"activation": "relu", "norm": norm, "lr": lr} for norm in ("none", "batch") for lr in RATES]
    every = 20 if plan.quick else 50
    shared = {"every": every, "until": 0.85, "test_images": 1000 if plan.quick else 2000}
    return lenet_trials(plan, [{**shared, **cell} for cell in cells], quick_steps=300, full_steps=4000)


def _until(accuracy: float, count: str) -> Callable[[Mapping[str, Any]], float]:
    """Steps or seconds to an accuracy; all there were if it was not reached."""

    def measure(result: Mapping[str, Any]) -> float:
        curve = result["curve"]
        reached = [n for n, share in zip(curve[count], curve["accuracy"], strict=True) if share >= accuracy]
        return float(reached[0] if reached else curve[count][-1])

    return measure


def _best(results: Results, norm: str) -> float:
    """The rate with the fewest steps to 80 %, in the mean over seeds."""
    steps = {lr: results.per_seed(_until(0.8, "steps"), activation="relu", norm=norm, lr=lr) for lr in RATES}
    means = {lr: sum(cell.values()) / len(cell) for lr, cell in steps.items() if cell}
    return min(means, key=lambda lr: means[lr], default=RATES[0])


def _read(results: Results, plan: Plan) -> Reading:
    arms: dict[str, dict[str, dict[str, Any]]] = {
        "book": {norm: {**BOOK, "norm": norm} for norm in ("none", "batch")},
        "best": {
            norm: {"activation": "relu", "norm": norm, "lr": _best(results, norm)}
            for norm in ("none", "batch")
        },
    }

    def ratio(which: str, accuracy: float, count: str) -> list[float]:
        none, batch = (
            results.per_seed(_until(accuracy, count), **arms[which][norm]) for norm in ("none", "batch")
        )
        return compare(operator.truediv, none, batch)

    return Reading(
        effects={
            "steps, textbook": ratio("book", 0.8, "steps"),
            "steps to 80 %": ratio("best", 0.8, "steps"),
            "steps to 85 %": ratio("best", 0.85, "steps"),
            "seconds to 80 %": ratio("best", 0.8, "seconds"),
            "seconds to 85 %": ratio("best", 0.85, "seconds"),
        },
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
                    for norm in ("none", "batch")
                    for row in results.where(activation="relu").points(
                        "lr", _until(0.8, "steps"), norm, norm=norm
                    )
                ),
                x_scale="log",
                y_scale="log",
            ),
            _curves(results, arms),
        ],
        notes=[
            *(
                _reached(results, which, norm, arms[which][norm])
                for which in arms
                for norm in ("none", "batch")
            ),
            *(
                f"The best learning rate of arm {norm} with ReLU is {arms['best'][norm]['lr']}."
                for norm in ("none", "batch")
            ),
        ],
    )


def _reached(results: Results, which: str, norm: str, arm: Mapping[str, Any]) -> str:
    tops: PerSeed = results.per_seed(lambda result: max(result["curve"]["accuracy"]), **arm)
    words = "the textbook's setting" if which == "book" else "its own best setting"
    parts = " and ".join(
        f"{share:.0%} on {sum(top >= share for top in tops.values())}" for share in (0.8, 0.85)
    )
    return f"Arm {norm} in {words} reached {parts} of {len(tops)} seeds within the steps allowed."


def _curves(results: Results, arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    rows = []
    for which, words in (("book", "sigmoid, rate 1.0"), ("best", "ReLU, own best rate")):
        for norm, arm in arms[which].items():
            for row in results.where(**arm).rows[:1]:
                curve = row.result["curve"]
                rows += [
                    {"series": norm, "x": step, "mean": share, "low": share, "high": share, "facet": words}
                    for step, share in zip(curve["steps"], curve["accuracy"], strict=True)
                ]
    return Figure(
        "curves", "Test accuracy by step, first seed", "line", "step", "test accuracy", "no band: one seed",
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
    "learning rate 1.0. Own best: ReLU, the rate of 0.04, 0.1, 0.25 and 0.6 with the fewest steps to 80 %.",
    measure="Steps and processor seconds (of one thread, without testing) until a test, taken every 20 "
    "steps, 50 in the full profile, first finds the accuracy with recalibrated statistics. A run that never "
    "does counts with all its steps, so that a ratio may be a lower bound.",
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
