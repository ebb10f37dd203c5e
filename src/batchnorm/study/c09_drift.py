"""C09: the inputs of layers drift while a network trains, and batch normalization holds them."""

import operator
import statistics
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.drift import watch_layers
from batchnorm.study.results import Results, compare, point
from batchnorm.study.sizes import sizes
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.training import cost_of
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

ARMS = ("none", "batch")
ACTIVATIONS = {"relu": 0.1, "sigmoid": 1.0}  # with the learning rate


def _trials(plan: Plan) -> list[Trial]:
    steps, looks = (160, 10) if plan.quick else (3000, 20)
    settings = {**sizes(plan), "batch_size": 64, "steps": steps, "looks": looks}
    cost = cost_of(steps, 64, looks + 1, 500)
    return [
        Trial.of(watch_layers, seed, cost, norm=norm, activation=activation, lr=lr, **settings)
        for activation, lr in ACTIVATIONS.items()
        for norm in ARMS
        for seed in plan.seeds
    ]


def _drift(result: Any) -> float:
    """Mean over layers and looks, without the first, in which everything moves."""
    return statistics.fmean(step for layer in result["layers"].values() for step in layer["drift"][1:])


def _growth(result: Any) -> float:
    """Mean over layers of how many times the spread (5 % to 95 %) at its widest is that at its narrowest."""
    factors = []
    for layer in result["layers"].values():
        spreads = [max(quantiles[-1] - quantiles[0], 1e-12) for quantiles in layer["quantiles"][1:]]
        factors.append(max(spreads) / min(spreads))
    return statistics.geometric_mean(factors)


def _read(results: Results, plan: Plan) -> Reading:
    def ratio(measure: Any, activation: str) -> list[float]:
        none, batch = (results.per_seed(measure, norm=norm, activation=activation) for norm in ARMS)
        return compare(operator.truediv, none, batch)

    rows, bands = [], []
    for activation in ACTIVATIONS:
        for norm in ARMS:
            cell = results.where(norm=norm, activation=activation).rows
            for layer in cell[0].result["layers"] if cell else ():
                facet = f"{layer}, {activation}"
                for look, step in enumerate(cell[0].result["steps"]):
                    low, _, middle, _, high = cell[0].result["layers"][layer]["quantiles"][look]
                    where = {"series": norm, "x": step, "facet": facet}
                    bands.append({**where, "mean": middle, "low": low, "high": high})
                    if look:
                        values = [row.result["layers"][layer]["drift"][look - 1] for row in cell]
                        rows.append(point(norm, step, values, facet=facet))
    return Reading(
        effects={
            "drift, ReLU": ratio(_drift, "relu"),
            "drift, sigmoid": ratio(_drift, "sigmoid"),
            "spread, ReLU": ratio(_growth, "relu"),
            "spread, sigmoid": ratio(_growth, "sigmoid"),
        },
        figures=[
            Figure(
                name="inputs",
                title="Input of each layer while training, first seed",
                mark="line",
                x="step",
                y="input",
                band="5 % to 95 % of the values about their median",
                rows=tuple(bands),
            ),
            Figure(
                name="drift",
                title="How far the input of each layer moves from one look to the next",
                mark="line",
                x="step",
                y="drift, in standard deviations",
                band="95 % t interval over seeds",
                rows=tuple(rows),
                y_scale="log",
            ),
        ],
    )


STUDY = Study(
    id="c09",
    name="drift",
    claim="The inputs of layers drift while a network trains (internal covariate shift); batch normalization "
    "holds them.",
    hypothesis="From one look at the network to the next, the inputs of the layers behind a normalization "
    "place move less with batch normalization, and their spread changes by a smaller factor.",
    held_equal="Initial weights, order of batches, learning rate (0.1 with ReLU, 1.0 with sigmoid), steps, "
    "and the 500 test images that are looked at, in prediction mode with population statistics.",
    measure="Drift: change of mean and of deviation between looks, over the deviation, mean over channels, "
    "layers and looks but the first. Spread: widest over narrowest distance of the 5 % and 95 % quantiles.",
    against="Inputs that drift as much, or more, with batch normalization. A network that does not learn "
    "does not drift either: without batch normalization and with sigmoid that is to be expected.",
    conditions=(
        Condition("drift, ReLU", "drift without over with, ReLU", "above", 1.0, "×"),
        Condition("drift, sigmoid", "drift without over with, sigmoid", "above", 1.0, "×"),
        Condition("spread, ReLU", "change of spread without over with, ReLU", "above", 1.0, "×"),
        Condition("spread, sigmoid", "change of spread without over with, sigmoid", "above", 1.0, "×"),
    ),
    trials=_trials,
    read=_read,
)
