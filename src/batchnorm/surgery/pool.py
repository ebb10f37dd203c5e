"""One pass over the data: what the watched layers are given, pooled over the batches."""

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from batchnorm.surgery.feed import Feed
from batchnorm.surgery.moments import Moments
from batchnorm.surgery.watch import NotFiniteError, Watch

__all__ = ["LayerStatistics", "Pool", "UnsteadyError", "pool_inputs"]

SETTLED_BATCHES = 8  # fewer tell too little about their own scatter


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Population statistics of one layer's input.

    Attributes:
        mean: ``(C,)``; float64, on the CPU.
        var: ``(C,)``, unbiased, as running statistics are; float64, on the CPU.
        count: Values per channel; the sum of their weights, where a mask gives some.
        batches: Batches they come from.
        samples: Samples they come from: the sum of the batches' first dimensions.
        skipped: Batches left out since they held NaN or infinite values.
        standard_error: Of the mean, in standard deviations, in the channel where it is largest; NaN
            for fewer than 2 batches.
        unsettled: How far the last round over the data still moved a layer whose statistics depend on
            themselves, in standard deviations or variances, in the channel where it is largest; 0 for others.
    """

    mean: Tensor
    var: Tensor
    count: float
    batches: int
    samples: int
    skipped: int
    standard_error: float
    unsettled: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """What is known of one layer's input: its moments over some batches, and how many samples those hold."""

    moments: Moments
    samples: int

    def add(self, moments: Moments, samples: int) -> "Pool":
        """With one more batch."""
        return Pool(self.moments.merge(moments), self.samples + samples)

    def statistics(self, name: str, skipped: int) -> LayerStatistics:
        """Population statistics of layer ``name``.

        Raises:
            ValueError: If there is one value per channel, which has no unbiased variance.
        """
        moments = self.moments
        if not moments.freedom:
            raise ValueError(f"recalibrate: loader expected 2 or more values per channel at {name!r}, got 1")
        return LayerStatistics(
            moments.mean.cpu(),
            (moments.var * (moments.count / moments.freedom)).cpu(),
            moments.count,
            moments.batches,
            self.samples,
            skipped,
            moments.standard_error(),
        )


class UnsteadyError(Exception):
    """A forward does not call the layers that the first one called, in that order."""


def pool_inputs(
    model: nn.Module,
    feed: Feed,
    watch: Watch,
    tolerance: float | None = None,
    calls: Sequence[str] | None = None,
) -> tuple[dict[str, Pool], int]:
    """Run the model over the feed once.

    Args:
        model: Borrowed.
        feed: The data.
        watch: Which layers to measure and how.
        tolerance: Stop when every measured layer has settled: at least 8 batches, and a standard error
            of the mean of at most so many standard deviations in every channel. None for never.
        calls: The calls of layers that every forward must make, up to where it is stopped.

    Returns:
        The pools by layer name, and the number of batches skipped since they are not finite.

    Raises:
        UnsteadyError: If a forward makes other calls.
        NotFiniteError: If no batch is finite.
        ValueError: If there is no batch.
    """
    pools: dict[str, Pool] = {}
    taken = skipped = 0
    with watch.hooked():
        for batch, size in feed:
            if not watch.observe(feed.forward, model, batch):
                skipped += 1
                continue
            if calls is not None and watch.calls != calls[: watch.stop]:
                raise UnsteadyError
            taken += 1
            for name, moments in watch.moments.items():
                pools[name] = pools[name].add(moments, size) if name in pools else Pool(moments, size)
            if tolerance is not None and pools.keys() == watch.measured and _settled(pools, tolerance):
                break
    if not taken:
        words = "recalibrate: loader expected one batch or more in every pass, got"
        if skipped:
            raise NotFiniteError(f"{words} {skipped} with NaN or infinite values")
        raise ValueError(f"{words} none")
    return pools, skipped


def _settled(pools: Mapping[str, Pool], tolerance: float) -> bool:
    return all(
        pool.moments.batches >= SETTLED_BATCHES and pool.moments.standard_error() <= tolerance
        for pool in pools.values()
    )
