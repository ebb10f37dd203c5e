"""Recalibration by several processes, each with a part of the data, as if one had seen all of it."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from batchnorm.records import error_line
from batchnorm.surgery.borrow import borrowed
from batchnorm.surgery.feed import Feed
from batchnorm.surgery.layers import choose_layers
from batchnorm.surgery.layerwise import first_calls
from batchnorm.surgery.pool import LayerStatistics, Pool, UnsteadyError, pool_inputs
from batchnorm.surgery.population import device_of
from batchnorm.surgery.recalibrate import RecalibrationReport, change_of, commit, expect_some
from batchnorm.surgery.watch import Watch, put_statistics

__all__ = ["recalibrate_ranks"]

_Answer = TypeVar("_Answer")


def recalibrate_ranks(
    model: nn.Module,
    loader: Iterable[Any],
    group: Any = None,
    *,
    layers: Iterable[str] | None = None,
    forward_fn: Callable[[nn.Module, Any], object] | None = None,
    device: torch.device | str | None = None,
    samples: int | None = None,
    batches: int | None = None,
) -> RecalibrationReport:
    """Give a model the population statistics of the data of all ranks together, in place.

    Layer by layer, as in `recalibrate`: each rank measures a layer on its own batches, then the counts,
    means and squared deviations of all ranks are merged, so that every value counts the same however many
    a rank has. Afterwards all ranks hold equal statistics. If one rank fails all do, and no model changes.

    Every rank of the group must call this, with the same weights. One small collective call per layer.

    Args:
        model: The network itself, not wrapped in DistributedDataParallel.
        loader: This rank's batches, one or more; passed over once per layer.
        group: Process group, of any backend; None for all processes.
        layers: As in `recalibrate`, as are the others; ``samples`` and ``batches`` are those of each rank.
        forward_fn: Runs the model on a batch, ``forward_fn(model, batch)``.
        device: Where batches are moved; None for that of the model's first parameter.
        samples: Use the first batches that make up so many samples.
        batches: Use the first so many batches.

    Returns:
        What was measured on all ranks together, and how far each layer of this rank moved.

    Raises:
        RuntimeError: If ``torch.distributed`` is not initialized, or another rank failed.
        ValueError: As `recalibrate`; or if forwards do not all call the same layers, each once.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("recalibrate_ranks: group expected torch.distributed to be initialized, got none")
    names = layers if layers is None or isinstance(layers, str) else list(layers)
    where = device_of(model) if device is None else device

    def feed() -> Feed:  # which may refuse its limits, and then on all ranks
        return Feed(loader, forward_fn, where, samples, batches)

    statistics: dict[str, LayerStatistics] = {}
    with borrowed(model):
        ranks = _on_all(group, lambda: _calls(model, feed(), names))
        calls = ranks[0]
        if any(other != calls for other in ranks) or len(set(calls)) < len(calls):
            raise ValueError(
                "recalibrate_ranks: model expected to call the same layers on all ranks, each once, got "
                + "; ".join(", ".join(other) or "none" for other in ranks)
            )
        choice = choose_layers(model, names)
        for place, name in enumerate(calls, 1):
            watch = Watch(choice.layers, {name}, stop=place)

            def measure(watch: Watch = watch) -> tuple[Pool | None, int]:
                return _measure(model, feed(), watch, calls)

            new = _merged(name, _on_all(group, measure))
            if new is not None:
                put_statistics(choice.layers[name], new.mean, new.var)  # for the layers after it
                statistics[name] = new
    untouched = choice.left_alone(statistics)
    expect_some(statistics, untouched)
    changes = tuple(change_of(name, choice.layers[name], new) for name, new in statistics.items())
    commit(choice.layers, statistics)
    return RecalibrationReport("layerwise", changes, untouched)


def _on_all(group: Any, work: Callable[[], _Answer]) -> list[_Answer]:
    """What every rank works out, by rank, on every rank; if it fails on one it fails on all."""
    answer, error = None, None
    try:
        answer = work()
    except Exception as caught:  # raised after the collective, or the others would wait for ever
        error = caught
    words = None if error is None else error_line(error)
    ranks: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, (answer, words), group)
    if error is not None:
        raise error
    for rank, (_, words) in enumerate(ranks):
        if words is not None:
            raise RuntimeError(
                f"recalibrate_ranks: all ranks expected to succeed, got on rank {rank} {words}"
            )
    return [answer for answer, _ in ranks]


def _calls(model: nn.Module, feed: Feed, layers: Iterable[str] | None) -> list[str]:
    """Names of the layers in the order of a first forward's calls."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # its forwards may be collective, and ranks may have other numbers of batches
        raise ValueError(
            "recalibrate_ranks: model expected the network itself, got DistributedDataParallel; "
            "give its module"
        )
    feed.expect_repeatable()
    return first_calls(model, feed, choose_layers(model, layers).layers)


def _measure(model: nn.Module, feed: Feed, watch: Watch, calls: list[str]) -> tuple[Pool | None, int]:
    """A layer's pool on this rank, on the CPU, None if nothing counts; and how many batches were skipped."""
    try:
        pools, skipped = pool_inputs(model, feed, watch, calls=calls)
    except UnsteadyError:
        raise ValueError(
            "recalibrate_ranks: model expected to call the same layers in every forward, got other calls"
        ) from None
    if not pools:
        return None, skipped
    (pool,) = pools.values()
    moments = pool.moments
    tensors = {name: getattr(moments, name).cpu() for name in ("mean", "within", "between")}
    return Pool(dataclasses.replace(moments, **tensors), pool.samples), skipped


def _merged(name: str, ranks: list[tuple[Pool | None, int]]) -> LayerStatistics | None:
    pools = [pool for pool, _ in ranks if pool is not None]
    if not pools:
        return None
    whole = reduce(lambda pool, other: pool.add(other.moments, other.samples), pools)
    return whole.statistics(name, sum(skipped for _, skipped in ranks))
