"""C03: batch normalization makes initialization matter less."""

import operator
import statistics

from batchnorm.records import Figure
from batchnorm.study.results import PerSeed, Results, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

INITS = ("zeros", "0.001", "0.01", "0.1", "1", "10", "xavier", "kaiming")
TRAINS = 0.7


def _trials(plan: Plan) -> list[Trial]:
    cells = [{"norm": norm, "init": init} for norm in ("none", "batch") for init in INITS]
    return lenet_trials(plan, cells, quick_steps=188, full_steps=938)


def _read(results: Results, plan: Plan) -> Reading:
    trained: dict[str, PerSeed] = {}
    spread: dict[str, PerSeed] = {}
    for norm in ("none", "batch"):
        cells = [results.per_seed("accuracy", norm=norm, init=init) for init in INITS if init != "zeros"]
        whole = [seed for seed in plan.seeds if all(seed in cell for cell in cells)]
        trained[norm] = {seed: sum(cell[seed] >= TRAINS for cell in cells) for seed in whole}
        spread[norm] = {seed: statistics.pstdev(cell[seed] for cell in cells) for seed in whole}
    zeros = {
        norm: results.per_seed("accuracy", norm=norm, init="zeros").values() for norm in ("none", "batch")
    }
    return Reading(
        effects={
            "more of them train": compare(operator.sub, trained["batch"], trained["none"]),
            "less spread": compare(operator.sub, spread["none"], spread["batch"]),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by initialization",
                mark="dot",
                x="standard deviation of the weights, or scheme",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(
                    row
                    for norm in ("none", "batch")
                    for row in results.points("init", "accuracy", norm, norm=norm)
                ),
                x_scale="nominal",
            )
        ],
        notes=[
            f"All-zero weights end at {statistics.fmean(cell):.3f} in arm {norm}; guessing is at 0.1."
            for norm, cell in zeros.items()
            if cell
        ],
    )


STUDY = Study(
    id="c03",
    name="initialization",
    claim="Batch normalization makes initialization matter less.",
    hypothesis="Of seven initializations (weights with deviation 0.001, 0.01, 0.1, 1, 10, Xavier, Kaiming) "
    "more train with batch normalization, and the accuracies they end at are closer together.",
    held_equal="Order of batches, learning rate 0.1, batches of 64, ReLU, number of steps; for each seed and "
    "initialization the same weights with and without.",
    measure="Test accuracy (recalibrated); 70 % or more counts as trained; spread is the standard deviation "
    "of the accuracy over the seven. All-zero weights are shown, and count for neither.",
    against="As many that train without; or accuracies as far apart.",
    conditions=(
        Condition("more of them train", "initializations that train, with less without", "above", 0.0),
        Condition(
            "less spread", "spread of the accuracy over initializations, without less with", "above", 0.0
        ),
    ),
    trials=_trials,
    read=_read,
)
