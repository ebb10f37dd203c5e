"""C04: without batch normalization depth is limited; with it and shortcuts over a hundred layers train."""

import operator
import statistics
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.depth import train_deep
from batchnorm.study.results import PerSeed, Results, compare
from batchnorm.study.sizes import sizes
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

DEPTHS = (8, 20, 56, 110)
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"shortcuts": False, "norm": "none"},
    "plain, batch norm": {"shortcuts": False, "norm": "batch"},
    "residual": {"shortcuts": True, "norm": "none"},
    "residual, batch norm": {"shortcuts": True, "norm": "batch"},
}
Rates = dict[tuple[str, int], Any]
GUESSING = 0.15  # one in ten, with some luck
# an image and layer of the deep nets costs so much in images of LeNet, by how small it was made
LAYER_COST = {4: 0.18, 2: 0.45}


def _trials(plan: Plan) -> list[Trial]:
    rates = (0.005, 0.03) if plan.quick else (0.003, 0.01, 0.03)
    size = (
        {"pool": 4, "batch_size": 32, "steps": 40, "test_images": 500}
        if plan.quick
        else {"pool": 2, "batch_size": 32, "steps": 250, "test_images": 2000}
    )
    settings: dict[str, Any] = {**sizes(plan), **size}
    seen = settings["steps"] * settings["batch_size"] + settings["test_images"]
    return [
        Trial.of(
            train_deep,
            seed,
            seen * depth * LAYER_COST[settings["pool"]],
            depth=depth,
            lr=lr,
            **network,
            **settings,
        )
        for network in NETWORKS.values()
        for depth in DEPTHS
        for lr in rates
        for seed in plan.seeds
    ]


def _read(results: Results, plan: Plan) -> Reading:
    rates = {
        (name, depth): results.best("lr", "accuracy", depth=depth, **network)
        for name, network in NETWORKS.items()
        for depth in DEPTHS
    }

    def accuracy(name: str, depth: int) -> PerSeed:
        return results.per_seed("accuracy", lr=rates[name, depth], depth=depth, **NETWORKS[name])

    def growth(name: str) -> PerSeed:
        return results.per_seed(_growth, lr=rates[name, 110], depth=110, **NETWORKS[name])

    rows = [
        row
        for (name, depth), rate in rates.items()
        for row in results.where(depth=depth).points("depth", "accuracy", name, lr=rate, **NETWORKS[name])
    ]
    return Reading(
        effects={
            "deep plain nets fail": compare(operator.sub, accuracy("plain", 8), accuracy("plain", 56)),
            "batch norm deepens plain nets": compare(
                operator.sub, accuracy("plain, batch norm", 20), accuracy("plain", 20)
            ),
            "110 layers train": list(accuracy("residual, batch norm", 110).values()),
            "shortcuts alone do not do": compare(
                operator.sub, accuracy("residual, batch norm", 110), accuracy("residual", 110)
            ),
            "batch norm alone does not do": compare(
                operator.sub, accuracy("residual, batch norm", 110), accuracy("plain, batch norm", 110)
            ),
            "activations grow": compare(operator.truediv, growth("residual"), growth("residual, batch norm")),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by depth, each network at its own best learning rate",
                mark="line",
                x="layers",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(rows),
                x_scale="log",
            ),
            _spreads(results, rates),
        ],
        notes=[_told(name, results, rates) for name in NETWORKS if results.rows],
    )


def _told(name: str, results: Results, rates: Rates) -> str:
    """Best rates in words; where a network guesses at all of them, none is."""

    def best(depth: int) -> Any:
        rate = rates[name, depth]
        shares = results.per_seed("accuracy", lr=rate, depth=depth, **NETWORKS[name]).values()
        return rate if shares and statistics.fmean(shares) > GUESSING else "none"

    tried = ", ".join(map(str, results.choices("lr")))
    found = ", ".join(f"{best(depth)} with {depth} layers" for depth in DEPTHS)
    return f"The {name} network's best learning rate, of {tried}: {found}."


def _growth(result: Any) -> float:
    """Spread of the last place's output over that of the first, before the first step."""
    return float(result["spread"][0][-1] / result["spread"][0][0])


def _spreads(results: Results, rates: Rates) -> Figure:
    rows = []
    for name, network in NETWORKS.items():
        for row in results.where(depth=110, lr=rates[name, 110], **network).rows[:1]:
            for spread, facet in zip(
                row.result["spread"], ("before the first step", "after five steps"), strict=True
            ):
                rows += [
                    {"series": name, "x": place, "mean": value, "low": value, "high": value, "facet": facet}
                    for place, value in enumerate(spread, 1)
                    if 0 < value < float("inf")
                ]
    return Figure(
        name="spread",
        title="Standard deviation of the activations by layer, 110 layers, first seed",
        mark="line",
        x="layer",
        y="standard deviation",
        band="none, one seed",
        rows=tuple(rows),
        y_scale="log",
    )


STUDY = Study(
    id="c04",
    name="depth",
    claim="Without batch normalization the number of layers is limited; residual blocks with batch "
    "normalization train more than a hundred.",
    hypothesis="Plain networks without batch normalization get worse with depth, sooner than those with. "
    "Of 110 layers only the network with shortcuts and batch normalization trains; with one of the two alone "
    "it is worse. Without it the activations of residual networks grow from block to block.",
    held_equal="Initial weights, order of batches, SGD with momentum 0.9 and a cosine schedule, steps. "
    "Images made smaller, 7 by 7 (14 by 14 in the full profile). Each network and depth at its own best "
    "learning rate.",
    measure="Test accuracy (recalibrated) after the same number of steps; spread of activations by layer.",
    against="Plain deep networks that train; or 110 layers that train as well without batch normalization.",
    conditions=(
        Condition(
            "deep plain nets fail", "accuracy, plain without batch norm, 8 less 56 layers", "above", 0.2
        ),
        Condition("batch norm deepens plain nets", "accuracy, plain, 20 layers, with less without", "above"),
        Condition("110 layers train", "accuracy, residual with batch norm, 110 layers", "above", 0.5),
        Condition("shortcuts alone do not do", "accuracy, residual, 110 layers, with less without", "above"),
        Condition("batch norm alone does not do", "accuracy, batch norm, 110, residual less plain", "above"),
        Condition(
            "activations grow",
            "spread of the last layer over the first, residual, 110 layers, without over with batch norm",
            "above",
            1.0,
            "×",
        ),
    ),
    trials=_trials,
    read=_read,
)
