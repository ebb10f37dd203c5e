"""C02: batch normalization allows larger learning rates."""

import math
import operator

from batchnorm.records import Figure
from batchnorm.study.results import PerSeed, Results, chosen, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

STEP = 2.5
RATES = tuple(25 / STEP**power for power in range(9, -1, -1))  # 0.0066 to 25
TRAINS = 0.7


def _trials(plan: Plan) -> list[Trial]:
    cells = [{"norm": norm, "lr": lr} for norm in ("none", "batch") for lr in RATES]
    return lenet_trials(plan, cells, quick_steps=188, full_steps=938)


def _read(results: Results, plan: Plan) -> Reading:
    largest, width, best = {}, {}, {}
    for norm in ("none", "batch"):
        cells = {lr: results.per_seed("accuracy", norm=norm, lr=lr) for lr in RATES}
        # a trial that failed says nothing on its rate
        whole = [seed for seed in plan.seeds if all(seed in cell for cell in cells.values())]
        trained = {seed: [lr for lr in RATES if cells[lr][seed] >= TRAINS] for seed in whole}
        largest[norm] = {seed: max(rates) for seed, rates in trained.items() if rates}
        width[norm] = {
            seed: math.log10(max(rates) / min(rates)) if rates else 0.0 for seed, rates in trained.items()
        }
        rate = results.best("lr", "accuracy", norm=norm)
        best[norm] = (rate, cells.get(rate, {}))
    own: dict[str, PerSeed] = {norm: cell for norm, (_, cell) in best.items()}
    return Reading(
        effects={
            "largest rate": compare(operator.truediv, largest["batch"], largest["none"]),
            "wider range": compare(operator.sub, width["batch"], width["none"]),
            "own best rate": compare(operator.sub, own["batch"], own["none"]),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by learning rate",
                mark="line",
                x="learning rate",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(
                    row
                    for norm in ("none", "batch")
                    for row in results.points("lr", "accuracy", norm, norm=norm)
                ),
                x_scale="log",
            )
        ],
        notes=[
            *(
                f"Arm {norm} does best at {chosen(rate, RATES)}."
                for norm, (rate, _) in best.items()
                if rate is not None
            ),
            *(
                f"Arm {norm} trains on {len(rates)} of {len(own[norm])} seeds, up to "
                f"{' and '.join(chosen(rate, RATES) for rate in sorted(set(rates.values())))}."
                for norm, rates in largest.items()
                if rates
            ),
        ],
    )


STUDY = Study(
    id="c02",
    name="learning-rate",
    claim="Batch normalization allows larger learning rates.",
    hypothesis="The largest learning rate at which LeNet trains is larger with batch normalization, and so "
    "is the whole range of rates that work; at each arm's own best rate batch normalization is still ahead.",
    held_equal="Initial weights, order of batches, plain SGD, batches of 64, ReLU, number of steps.",
    measure="Test accuracy (recalibrated) over learning rates a factor 2.5 apart, 0.0066 to 25. A rate "
    "trains if the accuracy is 70 % or more; the ratio of two largest rates is read off this grid, "
    "is known to a factor of 2.5, and takes two networks that train at some rate. An arm's best rate has the "
    "best mean over seeds.",
    against="The same largest rate without; or no lead once each arm has its best rate: then the larger rate "
    "buys nothing.",
    conditions=(
        Condition("largest rate", "largest rate that trains, with over without", "above", 1.0, "×"),
        Condition("wider range", "decades of rates that train, with less without", "above", 0.0, "decades"),
        Condition("own best rate", "accuracy, each at its own best rate, with less without", "above"),
    ),
    trials=_trials,
    read=_read,
)
