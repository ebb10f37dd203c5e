"""Layer by layer: each layer measured with all layers before it already at their new statistics.

In the end every layer holds the statistics of exactly what it is given when the network predicts.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from torch import nn

from batchnorm.surgery.feed import Feed
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.pool import LayerStatistics, UnsteadyError, pool_inputs
from batchnorm.surgery.watch import Watch, put_statistics

__all__ = ["layer_by_layer"]

STILL = 1e-6  # of a standard deviation


def layer_by_layer(
    model: nn.Module, feed: Feed, layers: Mapping[str, BatchNorm], *, tolerance: float | None = None
) -> dict[str, LayerStatistics]:
    """Population statistics of layers; see `population_statistics`.

    A pass over the data for each layer, whose forwards stop at that layer. The order is that of the
    calls in a first forward. Layers that are called again after others need statistics that depend on
    each other: such a group is measured together and again until nothing changes. If the forwards do
    not all make the same calls, all layers are one such group.

    Args:
        model: Borrowed.
        feed: The data, repeatable.
        layers: Those to measure, by name.
        tolerance: As in `pool_inputs`.
    """
    calls = _calls(model, feed, layers)
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


def _calls(model: nn.Module, feed: Feed, layers: Mapping[str, BatchNorm]) -> list[str]:
    """Names of the layers in the order of a first forward's calls."""
    with Watch(layers, ()) as watch:
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
    statistics: dict[str, LayerStatistics] = {}
    change = math.inf
    for number in itertools.count(1):
        pools, skipped = pool_inputs(model, feed, watch, tolerance, calls)
        old, statistics = statistics, {name: pool.statistics(name, skipped) for name, pool in pools.items()}
        for name, new in statistics.items():
            put_statistics(watch.layers[name], new.mean, new.var)
        before, change = change, _change(old, statistics)
        # Each round settles one layer more. After these, changes shrink, or are noise of the loader.
        if not again or change <= STILL or (number > len(statistics) and change > 0.9 * before):
            return statistics
    raise AssertionError("unreachable")


def _change(old: Mapping[str, LayerStatistics], new: Mapping[str, LayerStatistics]) -> float:
    """Largest change of any mean or variance, in standard deviations or variances."""
    if old.keys() != new.keys():
        return math.inf
    largest = 0.0
    for name, now in new.items():
        var = now.var.clamp_min(1e-30)  # a constant channel
        shift = (now.mean - old[name].mean).abs() / var.sqrt()
        scale = (now.var - old[name].var).abs() / var
        largest = max(largest, shift.max().item(), scale.max().item())
    return largest


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
