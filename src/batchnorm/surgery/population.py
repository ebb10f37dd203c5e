"""Population statistics of a network's batch-norm layers, taken from data."""

import dataclasses
import itertools
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from batchnorm.surgery.borrow import borrowed
from batchnorm.surgery.feed import Feed
from batchnorm.surgery.layers import choose_layers
from batchnorm.surgery.layerwise import layer_by_layer
from batchnorm.surgery.onepass import SmallBatchError, one_pass
from batchnorm.surgery.pool import LayerStatistics

__all__ = ["METHODS", "Measurement", "measure", "population_statistics"]

METHODS = ("auto", "layerwise", "onepass")

SMALL_NET = 10  # layers; with twenty, layer by layer takes ten times one pass


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured and how.

    Attributes:
        method: ``layerwise`` or ``onepass``.
        statistics: By layer name.
        untouched: The other batch-norm layers, with the reason.
    """

    method: str
    statistics: Mapping[str, LayerStatistics]
    untouched: Mapping[str, str]


def population_statistics(
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
) -> dict[str, LayerStatistics]:
    """Mean and variance over a data set of what each batch-norm layer of a model is given.

    The model predicts meanwhile, Dropout off, and is left as it was found: modes, buffers, hooks, and
    torch's random state. No other thread may use it meanwhile; give it a deep copy.

    Args:
        model: Any with subclasses of torch's batch norm: torch's, ours, SyncBatchNorm. What a ``mask=``
            excludes does not count. A class with a forward of its own is measured at what it hands to that
            of its base class, ``mask`` included; one that computes the formula itself is taken to have its
            channels at axis 1, and the ``mask`` that it is called with. Scripted layers are left alone.
        loader: Batches; see ``forward_fn``. ``layerwise`` passes over it several times.
        method: ``layerwise``: each layer with those before it already at their population statistics;
            exact; one pass a layer, up to 50 more where a layer is called again after others; ``unsettled``
            says how far the last of them moved it. ``onepass``: each layer normalized with the
            statistics of every batch, as in training; for large batches. ``auto``: layerwise up to 10
            layers, and beyond if the batches are too small for one pass.
        layers: Names of layers, or of modules with layers; None for all that are not frozen, see
            `choose_layers`.
        forward_fn: Runs the model on a batch, ``forward_fn(model, batch)``. None for batches that are a
            tensor or a dict of arguments, or a tuple or list that begins with one.
        device: Where batches are moved; None for the device of the model's first parameter.
        samples: Use the first batches that make up so many samples; None for all.
        batches: Use the first so many batches; None for all.
        tolerance: Stop a pass when the statistics have settled: after 8 batches or more, when the
            standard error of every mean is at most so many standard deviations; 0.02 is a sound choice.
            It is seen from the scatter of the batches' means, so the data must be shuffled. None uses
            all the data.
        allow_small_batches: Do one pass even if the batches are worth fewer than 32 independent values
            per channel: the variance within them over the variance of their means.

    Returns:
        Statistics by layer name, without the layers that the data do not reach; empty for a model
        without batch norm.

    Raises:
        TypeError: If the model is no module.
        ValueError: If an argument is out of range, no batch is finite, the loader cannot be passed over
            again, its batches are too small for one pass, a mask differs between channels, or a class with
            a forward of its own is given something without its channels at axis 1.

    Numerics:
        Each batch in float64 in two passes; batches merged by Chan's formula, so that the variance has
        a part within and a part between batches.

    References:
        Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3: "PreciseBN",
        which is one pass.

    Differs from torch:
        `torch.optim.swa_utils.update_bn` averages the variances of batches, each with the same weight,
        leaves Dropout on, and overwrites frozen layers.
    """
    feed = Feed(loader, forward_fn, device, samples, batches)
    return dict(measure(model, feed, method, layers, tolerance, allow_small_batches).statistics)


def measure(
    model: nn.Module,
    feed: Feed,
    method: str,
    layers: Iterable[str] | None,
    tolerance: float | None,
    allow_small_batches: bool,
) -> Measurement:
    """`population_statistics`, with the method that was taken and the layers that were left alone."""
    if method not in METHODS:
        raise ValueError(f"recalibrate: method expected one of {', '.join(METHODS)}, got {method!r}")
    if tolerance is not None and not (isinstance(tolerance, numbers.Real) and tolerance > 0):
        raise ValueError(f"recalibrate: tolerance expected a number > 0, got {tolerance!r}")
    choice = choose_layers(model, layers)
    if feed.device is None:
        feed = dataclasses.replace(feed, device=device_of(model))
    statistics: dict[str, LayerStatistics] = {}
    taken = "onepass" if method == "onepass" else "layerwise"
    if choice.layers:
        with borrowed(model):
            if method == "onepass" or (method == "auto" and len(choice.layers) > SMALL_NET):
                try:
                    statistics = one_pass(
                        model,
                        feed,
                        choice.layers,
                        tolerance=tolerance,
                        allow_small_batches=allow_small_batches,
                    )
                    taken = "onepass"
                except SmallBatchError:
                    if method == "onepass":
                        raise
            if not statistics:
                feed.expect_repeatable()
                statistics = layer_by_layer(model, feed, choice.layers, tolerance=tolerance)
    return Measurement(taken, statistics, choice.left_alone(statistics))


def device_of(model: nn.Module) -> torch.device | None:
    """That of the model's first parameter or buffer; None if it has neither."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device
