"""C06: training and prediction differ; prediction uses moving averages."""

import operator
import statistics
from collections.abc import Mapping
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.prediction import train_book
from batchnorm.study.results import PerSeed, Results, compare, point
from batchnorm.study.sizes import sizes
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

RATES = (0.1, 1.0)
MOMENTA = (0.01, 0.3, 1.0)
KINDS = {
    "running": "moving averages",
    "recalibrated": "population statistics",
    "batch": "each batch of 500 its own",
}


def _trials(plan: Plan) -> list[Trial]:
    size = {"batch_size": 64, "epochs": 5} if plan.quick else {"batch_size": 256, "epochs": 10}
    settings = {**sizes(plan), **size, "momenta": MOMENTA}
    # the headline needs ten seeds or more
    seeds = plan.seeds if plan.quick else tuple(range(max(10, len(plan.seeds))))
    cost = settings["epochs"] * (1.3 * settings["images"] + 2.5 * settings["test_images"])
    return [Trial.of(train_book, seed, cost, lr=lr, **settings) for lr in RATES for seed in seeds]


def _last(kind: str) -> Any:
    """Mean over the second half of the epochs."""
    return lambda result: statistics.fmean(_half(result[kind]))


def _half(values: list[float]) -> list[float]:
    return list(values[len(values) // 2 :])


def _swing(kind: str) -> Any:
    """Standard deviation over the second half of the epochs."""
    return lambda result: statistics.pstdev(_half(result[kind]))


def _read(results: Results, plan: Plan) -> Reading:
    def gain(lr: float) -> PerSeed:
        running, recalibrated = (results.per_seed(_last(kind), lr=lr) for kind in ("running", "recalibrated"))
        return {seed: recalibrated[seed] - running[seed] for seed in running}

    large, small = gain(1.0), gain(0.1)
    swing = {kind: results.per_seed(_swing(kind), lr=1.0) for kind in ("running", "recalibrated")}
    population, fours = (results.per_seed(_last(kind), lr=1.0) for kind in ("recalibrated", "batch_of_4"))
    return Reading(
        effects={
            "averages lag": list(large.values()),
            "the rate makes them lag": compare(operator.sub, large, small),
            "restless": compare(operator.sub, swing["running"], swing["recalibrated"]),
            "one image at a time": [row.result["single"] for row in results.rows],
            "four are too few": compare(operator.sub, population, fours),
        },
        figures=[_by_epoch(results), _by_momentum(results)],
        notes=[_headline(results, kind) for kind in ("running", "recalibrated") if results.rows],
    )


def _headline(results: Results, kind: str) -> str:
    last = list(results.per_seed(lambda result: result[kind][-1], lr=1.0).values())
    every = [share for row in results.where(lr=1.0).rows for share in _half(row.result[kind])]
    spread = f" ± {statistics.stdev(last):.3f}" if len(last) > 1 else ""
    return (
        f"At learning rate 1.0 the test accuracy after the last epoch, with {KINDS[kind]}, is "
        f"{statistics.fmean(last):.3f}{spread} over {len(last)} seeds, {min(last):.3f} the worst; "
        f"the worst after any epoch of the last half is {min(every):.3f}."
    )


def _by_epoch(results: Results) -> Figure:
    rows = []
    for lr in RATES:
        cell = results.where(lr=lr).rows
        for kind, words in KINDS.items():
            for epoch in range(len(cell[0].result[kind]) if cell else 0):
                values = [row.result[kind][epoch] for row in cell]
                rows.append(point(words, epoch + 1, values, facet=f"learning rate {lr}"))
    return Figure(
        name="epochs",
        title="Test accuracy by epoch and kind of statistics, momentum 0.1",
        mark="line",
        x="epoch",
        y="test accuracy",
        band="95 % t interval over seeds",
        rows=tuple(rows),
    )


def _by_momentum(results: Results) -> Figure:
    rows: list[Mapping[str, Any]] = []
    for lr in RATES:
        cell = results.where(lr=lr).rows
        if not cell:
            continue
        series = f"learning rate {lr}"
        curves = {momentum: [row.result["averages"][i] for row in cell] for i, momentum in enumerate(MOMENTA)}
        curves[0.1] = [row.result["running"] for row in cell]
        rows += [
            point(series, momentum, [statistics.fmean(_half(curve)) for curve in curves[momentum]])
            for momentum in sorted(curves)
        ]
    return Figure(
        name="momentum",
        title="Test accuracy with moving averages by momentum, mean of the second half of the epochs",
        mark="line",
        x="momentum (weight of the new batch)",
        y="test accuracy",
        band="95 % t interval over seeds",
        rows=tuple(rows),
        x_scale="log",
    )


STUDY = Study(
    id="c06",
    name="prediction",
    claim="Training and prediction differ: prediction uses moving averages, and so can take one image.",
    hypothesis="The textbook's unstable test accuracy is made by moving averages that lag behind weights at "
    "learning rate 1.0: with population statistics the same weights are better and steadier, and at a tenth "
    "of the rate there is less to gain. One image is predicted as in a batch; statistics of four images do "
    "not serve.",
    held_equal="The same weights, tested in every way after each epoch. LeNet with sigmoid and batch "
    "normalization, plain SGD; batches of 64 of the sample, 256 in the full profile; momentum 0.1.",
    measure="Test accuracy with moving averages, population statistics and the batch's own; means and "
    "standard deviations over the second half of the epochs.",
    against="Moving averages that are as good and as steady at rate 1.0; or as bad at rate 0.1.",
    conditions=(
        Condition("averages lag", "accuracy at rate 1.0, population less moving averages", "above"),
        Condition("the rate makes them lag", "that difference, at rate 1.0 less at 0.1", "above"),
        Condition("restless", "deviation over epochs, moving averages less population", "above"),
        Condition("one image at a time", "change of a logit, alone or in a batch", "below", 1e-3, exact=True),
        Condition("four are too few", "accuracy, population less statistics of four test images", "above"),
    ),
    trials=_trials,
    read=_read,
)
