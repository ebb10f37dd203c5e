"""C11: batch normalization does poorly on sequences and recurrent networks."""

import operator
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.recurrent import NORMS, train_rows
from batchnorm.study.results import PerSeed, Results, compare, point
from batchnorm.study.sizes import sizes
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

# an image costs so much more than one of LeNet
COST = 2.0


def _trials(plan: Plan) -> list[Trial]:
    size = {"steps": 80, "test_images": 500} if plan.quick else {"steps": 470, "test_images": 2000}
    shared: dict[str, Any] = {**sizes(plan), "hidden": 64, "lr": 0.003, "batch_size": 64, **size}
    cells: list[dict[str, Any]] = [{"norm": norm, "varied": False, "masked": False} for norm in NORMS]
    cells += [{"norm": norm, "varied": True, "masked": False} for norm in ("none", "layer")]
    cells += [{"norm": "per-step", "varied": True, "masked": masked} for masked in (False, True)]
    cost = COST * (shared["steps"] * shared["batch_size"] + shared["test_images"])
    return [Trial.of(train_rows, seed, cost, **cell, **shared) for cell in cells for seed in plan.seeds]


def _read(results: Results, plan: Plan) -> Reading:
    def accuracy(norm: str, *, varied: bool = False, masked: bool = False) -> PerSeed:
        return results.per_seed("accuracy", norm=norm, varied=varied, masked=masked)

    cells = {("all rows", norm): accuracy(norm) for norm in NORMS}
    cells |= {
        ("14, 21 or 28 rows", norm): accuracy(norm, varied=True) for norm in ("none", "layer", "per-step")
    }
    cells["14, 21 or 28 rows", "per-step, masked"] = accuracy("per-step", varied=True, masked=True)
    lost = {
        norm: {
            seed: share - results.per_seed("accuracy_running", norm=norm, varied=False)[seed]
            for seed, share in results.per_seed("train_accuracy", norm=norm, varied=False).items()
        }
        for norm in ("per-step", "layer")
    }
    return Reading(
        effects={
            "worse than none": compare(operator.sub, accuracy("none"), accuracy("batch")),
            "worse than layer norm": compare(operator.sub, accuracy("layer"), accuracy("batch")),
            "each step its own": compare(operator.sub, accuracy("per-step"), accuracy("batch")),
            "prediction loses": compare(operator.sub, lost["per-step"], lost["layer"]),
            "masks matter": compare(
                operator.sub,
                accuracy("per-step", varied=True, masked=True),
                accuracy("per-step", varied=True),
            ),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy of an LSTM over the rows of images",
                mark="dot",
                x="normalization",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(
                    point(rows, norm, list(cell.values())) for (rows, norm), cell in cells.items() if cell
                ),
                x_scale="nominal",
            )
        ],
    )


STUDY = Study(
    id="c11",
    name="sequences",
    claim="Batch normalization does poorly on sequences and in recurrent networks.",
    hypothesis="In an LSTM over the 28 rows of an image, batch normalization with one set of statistics for "
    "all steps ends below no normalization and below layer normalization; a set for each step mends it, and "
    "with sequences of different lengths the padding must stay out of the statistics.",
    held_equal="Initial weights, order of batches, Adam at 0.003, gradients clipped at 1, steps, size of the "
    "state (64); where lengths vary (14, 21 or 28 rows), the same lengths, padded with white rows. Not "
    "equal: gamma begins at 0.1 in batch normalization and at 1 in layer normalization.",
    measure="Test accuracy with statistics of 2,000 training images; and what is lost from the end of "
    "training to a test with running statistics.",
    against="Batch normalization over time that is as good as the others; or padding that does no harm.",
    conditions=(
        Condition("worse than none", "accuracy, none less batch norm over time", "above"),
        Condition("worse than layer norm", "accuracy, layer norm less batch norm over time", "above"),
        Condition("each step its own", "accuracy, statistics a step less one set", "above"),
        Condition(
            "prediction loses",
            "accuracy lost with running statistics, statistics a step less layer norm",
            "above",
        ),
        Condition("masks matter", "accuracy on varied lengths, statistics a step, mask less none", "above"),
    ),
    trials=_trials,
    read=_read,
)
