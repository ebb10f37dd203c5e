"""Layer by layer: each layer measured with all layers before it already at their new statistics.

In the end every layer holds the statistics of exactly what it is given when the network predicts.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from batchnorm.surgery.feed import Feed
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.pool import LayerStatistics, UnsteadyError, pool_inputs
from batchnorm.surgery.watch import Watch, put_statistics

__all__ = ["first_calls", "layer_by_layer"]

STILL = 1e-6  # of a standard deviation
REGROWTH = 1.1  # at first statistics jump about, which says little of how far a step may go near their end
LEAST_SHARE = 1 / 32  # of a change, below which a noisy loader is not worth another round
MOST_ROUNDS = 50  # a network that calls a layer 2 to 4 times took 3 to 15


def layer_by_layer(
    model: nn.Module, feed: Feed, layers: Mapping[str, BatchNorm], *, tolerance: float | None = None
) -> dict[str, LayerStatistics]:
    """Population statistics of layers; see `population_statistics`.

    A pass over the data for each layer, whose forwards stop at that layer. The order is that of the
    calls in a first forward. Layers that are called again after others need statistics that depend on
    each other: such a group is measured together and again until nothing changes, the loader turns out
    noisy, or 50 rounds are over. If the forwards do not all make the same calls, all layers are one such
    group.

    Args:
        model: Borrowed.
        feed: The data, repeatable.
        layers: Those to measure, by name.
        tolerance: As in `pool_inputs`.
    """
    calls = first_calls(model, feed, layers)
    statistics: dict[str, LayerStatistics] = {}
    try:
        groups = _groups(calls)
        end = 0
        for group in groups:
            end += sum(name in group for name in calls)
            # The last forwards run to their end, to see that no layer is called again.
            watch = Watch(layers, group, stop=None if group is groups[-1] else end)
            again = any(calls.count(name) > 1 for name in group)
            statistics |= _measure(model, feed, watch, tolerance, calls, again=again)
    except UnsteadyError:
        return _measure(model, feed, Watch(layers, layers), tolerance, None, again=True)
    return statistics


def first_calls(model: nn.Module, feed: Feed, layers: Mapping[str, BatchNorm]) -> list[str]:
    """Names of the layers in the order of a first forward's calls.

    Raises:
        ValueError: If there is no batch.
    """
    with Watch(layers, ()).hooked() as watch:
        for batch, _ in feed:
            watch.observe(feed.forward, model, batch)
            return watch.calls
    raise ValueError("recalibrate: loader expected one batch or more, got none")


def _measure(
    model: nn.Module,
    feed: Feed,
    watch: Watch,
    tolerance: float | None,
    calls: Sequence[str] | None,
    *,
    again: bool,
) -> dict[str, LayerStatistics]:
    """Measure a group and put its statistics in place; ``again`` and again until they are a fixed point."""
    placed: dict[str, tuple[Tensor, Tensor]] = {}
    before, share, number = math.inf, 1.0, 0
    while True:
        number += 1
        pools, skipped = pool_inputs(model, feed, watch, tolerance, calls)
        statistics = {name: pool.statistics(name, skipped) for name, pool in pools.items()}
        changes = {name: _distance(new, placed.get(name)) for name, new in statistics.items()}
        change = max(changes.values(), default=0.0)
        # Each round settles one layer more; before that many, growth says nothing.
        rounds = number - len(statistics)
        if rounds > 0:
            # a growing change swings about the fixed point, or the loader is noisy
            share = share / 2 if change > before else min(1.0, REGROWTH * share)
        done = not again or change <= STILL or share < LEAST_SHARE or rounds == MOST_ROUNDS
        for name, new in statistics.items():
            mean, var = placed.get(name, (new.mean, new.var))
            step = 1.0 if done else share
            placed[name] = mean + step * (new.mean - mean), var + step * (new.var - var)
            put_statistics(watch.layers[name], *placed[name])
        if done:
            left = changes if again else dict.fromkeys(changes, 0.0)
            return {name: dataclasses.replace(new, unsettled=left[name]) for name, new in statistics.items()}
        before = change


def _distance(new: LayerStatistics, placed: tuple[Tensor, Tensor] | None) -> float:
    """Largest difference in standard deviations or variances."""
    if placed is None:
        return math.inf
    mean, var = placed
    scale = new.var.clamp_min(1e-30)  # a constant channel
    shift, growth = (new.mean - mean).abs() / scale.sqrt(), (new.var - var).abs() / scale
    return max(shift.max().item(), growth.max().item())


def _groups(calls: Sequence[str]) -> list[list[str]]:
    """Cut a sequence of calls into groups of layers, so that no group is called again after another.

    Example:
        >>> _groups(["a", "b", "c", "b", "d"])
        [['a'], ['b', 'c'], ['d']]
    """
    last = {name: place for place, name in enumerate(calls)}
    groups: list[list[str]] = []
    end = -1
    for place, name in enumerate(calls):
        if place > end:
            groups.append([])
        if name not in groups[-1]:
            groups[-1].append(name)
        end = max(end, last[name])
    return groups
