"""How large the trials of a plan are, and the trials of LeNet for each cell and seed."""

from collections.abc import Iterable, Mapping
from typing import Any

from batchnorm.study.study import Plan
from batchnorm.study.training import cost_of, train_lenet
from batchnorm.study.trial import Trial

__all__ = ["lenet_trials", "sizes"]


def sizes(plan: Plan) -> dict[str, Any]:
    """Which images and how many: 6,000 and 1,000 of the sample, or all 60,000 and 10,000."""
    if plan.quick or plan.data == "embedded-sample":
        return {"data": plan.data, "images": 6000, "test_images": 1000}
    return {"data": plan.data, "images": 60000, "test_images": 10000}


def lenet_trials(
    plan: Plan, cells: Iterable[Mapping[str, Any]], *, quick_steps: int, full_steps: int
) -> list[Trial]:
    """Trials of `train_lenet`: every cell with every seed.

    Args:
        plan: Gives profile, seeds and images.
        cells: Settings in which the trials differ; they may also overrule sizes and steps.
        quick_steps: Optimizer steps of the quick profile.
        full_steps: Of the full one.
    """
    trials = []
    for cell in cells:
        steps = quick_steps if plan.quick else full_steps
        settings = {"batch_size": 64, **sizes(plan), "steps": steps, **cell}
        evaluations = -(-settings["steps"] // settings["every"]) if settings.get("every") else 1
        cost = cost_of(settings["steps"], settings["batch_size"], evaluations + 1, settings["test_images"])
        trials += [Trial.of(train_lenet, seed, cost, **settings) for seed in plan.seeds]
    return trials
