"""All layers in one pass, each normalized with the statistics of the batch, as in training.

The deeper layers are given the noise of the batches, which prediction does not have. With large
batches that hardly matters; with small ones the network gets worse than it was.
"""

import math
from collections.abc import Mapping

from torch import nn

from batchnorm.surgery.feed import Feed
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.moments import Moments
from batchnorm.surgery.pool import LayerStatistics, pool_inputs
from batchnorm.surgery.watch import Watch

__all__ = ["SmallBatchError", "one_pass"]

SMALL_BATCH = 32  # independent values per channel


class SmallBatchError(ValueError):
    """The batches are too small for one pass."""


def one_pass(
    model: nn.Module,
    feed: Feed,
    layers: Mapping[str, BatchNorm],
    *,
    tolerance: float | None = None,
    allow_small_batches: bool = False,
) -> dict[str, LayerStatistics]:
    """Population statistics of layers; see `population_statistics`.

    Args:
        model: Borrowed.
        feed: The data.
        layers: Those to measure, by name.
        tolerance: As in `pool_inputs`.
        allow_small_batches: Do not refuse small batches.

    Raises:
        SmallBatchError: If the batches are worth fewer than 32 independent values per channel. One
            batch alone is the whole data set and never too small.
    """
    watch = Watch(layers, layers, batchwise=True)
    pools, skipped = pool_inputs(model, feed, watch, tolerance)
    for name, pool in pools.items():
        worth = _most_worth(pool.moments)
        if worth < SMALL_BATCH and not allow_small_batches:
            raise SmallBatchError(
                f"recalibrate: loader expected batches worth {SMALL_BATCH} or more independent values per "
                f"channel for method 'onepass', got {worth:.3g} at layer {name!r}; use larger or shuffled "
                "batches, or method 'layerwise'"
            )
    return {name: pool.statistics(name, skipped) for name, pool in pools.items()}


def _most_worth(moments: Moments) -> float:
    """Independent values per channel in a batch, in doubt too many: two standard errors up."""
    if moments.batches < 2:
        return math.inf
    values = moments.count / moments.batches
    measured = moments.effective_count() * (1 + 2 * math.sqrt(2 / (moments.batches - 1)))
    return values if math.isnan(measured) else min(values, measured)
