"""Replace running statistics, which lag behind the weights, by those of a population."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.records.record import Record
from batchnorm.surgery.feed import Feed
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.surgery.population import measure
from batchnorm.surgery.watch import put_statistics

__all__ = ["LayerChange", "RecalibrationReport", "change_of", "commit", "expect_some", "recalibrate"]


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """What recalibration did to one layer.

    Attributes:
        name: Of the layer.
        count: Values per channel that the statistics come from; the sum of their weights, where a mask gives
            some.
        batches: Batches they come from.
        samples: Samples they come from.
        skipped: Batches left out since they held NaN or infinite values.
        standard_error: Of the new means, in standard deviations, in the channel where it is largest;
            NaN for fewer than 2 batches.
        unsettled: How far the last round over the data still moved it, in standard deviations or variances,
            where it is called again after other layers; 0 where one pass is exact.
        mean_shift: Distance from the old mean to the new one, in new standard deviations, in the channel
            where it is largest; infinite if the old one was not finite.
        spread_factor: Factor between the old standard deviation and the new one, 1 or more, in the channel
            where it is largest; infinite if the old variance was negative or not finite.
    """

    name: str
    count: float
    batches: int
    samples: int
    skipped: int
    standard_error: float
    unsettled: float
    mean_shift: float
    spread_factor: float


@dataclasses.dataclass(frozen=True)
class RecalibrationReport(Record):
    """What recalibration did to a model.

    Attributes:
        method: ``layerwise`` or ``onepass``.
        layers: The layers with new statistics, in the order they were measured.
        untouched: Why the other batch-norm layers were left alone, by name.
    """

    method: str
    layers: tuple[LayerChange, ...]
    untouched: Mapping[str, str]


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    method: str = "auto",
    layers: Iterable[str] | None = None,
    forward_fn: Callable[[nn.Module, Any], object] | None = None,
    device: torch.device | str | None = None,
    samples: int | None = None,
    batches: int | None = None,
    tolerance: float | None = None,
    allow_small_batches: bool = False,
) -> RecalibrationReport:
    """Give the batch-norm layers of a model the population statistics of a data set, in place.

    ``running_mean``, ``running_var`` (unbiased) and ``num_batches_tracked`` (the batches used) of the
    chosen layers change and nothing else does. If anything goes wrong, or is interrupted, nothing does.

    Args:
        model: As for `population_statistics`, as are the other arguments.
        loader: Training data, without augmentation where the network will predict without.
        method: ``auto``, ``layerwise`` or ``onepass``.
        layers: Names of layers, or of modules with layers; None for all that are not frozen.
        forward_fn: Runs the model on a batch, ``forward_fn(model, batch)``.
        device: Where batches are moved; None for the device of the model.
        samples: Use the first batches that make up so many samples.
        batches: Use the first so many batches.
        tolerance: Stop when the means are known to so many standard deviations.
        allow_small_batches: Do one pass even with small batches.

    Returns:
        What was measured from how much data, and how far each layer moved.

    Raises:
        ValueError: As `population_statistics`; if no layer was reached; or if a statistic does not fit into
            its buffer's dtype.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        >>> report = recalibrate(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0]])])
        >>> model[0].running_mean.item(), model[0].running_var.item()
        (2.0, 4.0)
        >>> round(report.layers[0].mean_shift, 3)
        1.0
    """
    feed = Feed(loader, forward_fn, device, samples, batches)
    measured = measure(model, feed, method, layers, tolerance, allow_small_batches)
    expect_some(measured.statistics, measured.untouched)
    modules = dict(model.named_modules())
    changes = []
    for name, new in measured.statistics.items():
        layer = modules[name]
        assert isinstance(layer, BatchNorm)
        changes.append(change_of(name, layer, new))
    commit(modules, measured.statistics)
    return RecalibrationReport(measured.method, tuple(changes), measured.untouched)


def expect_some(statistics: Mapping[str, LayerStatistics], untouched: Mapping[str, str]) -> None:
    """Refuse a model of which no layer was measured; why each was ``untouched`` is in the error."""
    if not statistics:
        reasons = "; ".join(f"{name or 'itself'} {reason}" for name, reason in untouched.items())
        raise ValueError(f"recalibrate: model expected a batch-norm layer to change, got {reasons or 'none'}")


def change_of(name: str, layer: BatchNorm, new: LayerStatistics) -> LayerChange:
    """How far a layer's running statistics are from new ones."""
    mean, var = (_exact(values) for values in (layer.running_mean, layer.running_var))
    new_std = (new.var + layer.eps).sqrt()
    ratio = (var + layer.eps).sqrt() / new_std
    return LayerChange(
        name,
        new.count,
        new.batches,
        new.samples,
        new.skipped,
        new.standard_error,
        new.unsettled,
        _largest((mean - new.mean).abs() / new_std),
        _largest(torch.maximum(ratio, 1 / ratio)),
    )


def _exact(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.detach().cpu().double()


def _largest(values: Tensor) -> float:
    return values.nan_to_num(nan=math.inf, posinf=math.inf).max().item()


@torch.no_grad()
def commit(modules: Mapping[str, nn.Module], statistics: Mapping[str, LayerStatistics]) -> None:
    """Write all statistics or, if that is interrupted, none."""
    written: list[tuple[Tensor, Tensor]] = []
    try:
        for name, new in statistics.items():
            layer = modules[name]
            assert isinstance(layer, BatchNorm)
            for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked):
                if buffer is not None:
                    written.append((buffer, buffer.clone()))
            put_statistics(layer, new.mean, new.var)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.fill_(new.batches)
    except BaseException:
        for buffer, value in written:
            buffer.copy_(value)
        raise
