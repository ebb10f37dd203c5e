"""C08: the noise of batch statistics regularizes."""

import operator
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.results import PerSeed, Results, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

ARMS: dict[str, dict[str, Any]] = {
    "batch": {"norm": "batch", "dropout": 0.0},
    "ghost of 50": {"norm": "ghost:50", "dropout": 0.0},
    "ghost of 10": {"norm": "ghost:10", "dropout": 0.0},
    "ghost of 5": {"norm": "ghost:5", "dropout": 0.0},
    "dropout": {"norm": "batch", "dropout": 0.5},
    "none": {"norm": "none", "dropout": 0.0},
}


def _trials(plan: Plan) -> list[Trial]:
    # few images, seen often: there must be something to regularize
    few = {"images": 1000, "batch_size": 250} if plan.quick else {"images": 5000, "batch_size": 500}
    cells = [{**few, "lr": 0.2, **arm} for arm in ARMS.values()]
    return lenet_trials(plan, cells, quick_steps=120, full_steps=800)


def _read(results: Results, plan: Plan) -> Reading:
    test = {name: results.per_seed("accuracy", **arm) for name, arm in ARMS.items()}
    train = {name: results.per_seed("train_accuracy", **arm) for name, arm in ARMS.items()}
    gap: dict[str, PerSeed] = {
        name: {seed: train[name][seed] - test[name][seed] for seed in test[name]} for name in ARMS
    }
    named = [
        (name, quantity, results.where(**arm))
        for name, arm in ARMS.items()
        for quantity in ("train_accuracy", "accuracy")
    ]
    rows = [
        {**row, "x": name}
        for name, quantity, cell in named
        for row in cell.points("norm", quantity, "train" if quantity == "train_accuracy" else "test")
    ]
    return Reading(
        effects={
            "smaller gap": compare(operator.sub, gap["batch"], gap["ghost of 5"]),
            "smaller gap, 10": compare(operator.sub, gap["batch"], gap["ghost of 10"]),
            "better test": compare(operator.sub, test["ghost of 10"], test["batch"]),
            "dropout does so too": compare(operator.sub, gap["batch"], gap["dropout"]),
        },
        figures=[
            Figure(
                name="gap",
                title="Accuracy on the training and the test images by source of noise",
                mark="dot",
                x="arm",
                y="accuracy",
                band="95 % t interval over seeds",
                rows=tuple(rows),
                x_scale="nominal",
            )
        ],
    )


STUDY = Study(
    id="c08",
    name="noise",
    claim="The noise of batch statistics regularizes.",
    hypothesis="The smaller the part of a batch that statistics are taken from (ghost batches), the noisier "
    "they are, and the smaller the gap between training and test accuracy; some noise helps the test too.",
    held_equal="Initial weights, order of batches, batch of the gradient, learning rate 0.2, ReLU, steps, "
    "training set (1,000 images in batches of 250; 5,000 in batches of 500 in the full profile).",
    measure="Training less test accuracy, both in prediction mode with recalibrated statistics. Least noise: "
    "statistics of the whole batch; most: of 5 images. Dropout of 0.5 behind the dense layers beside it.",
    against="A gap as large with noisy statistics; or a smaller gap bought with test accuracy.",
    conditions=(
        Condition("smaller gap", "gap, whole batch less ghost batches of 5", "above"),
        Condition("smaller gap, 10", "gap, whole batch less ghost batches of 10", "above"),
        Condition("better test", "test accuracy, ghost batches of 10 less whole batch", "above"),
        Condition("dropout does so too", "gap, whole batch less the same with dropout", "above"),
    ),
    trials=_trials,
    read=_read,
)
