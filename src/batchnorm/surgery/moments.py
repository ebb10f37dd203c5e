"""Mean and variance of a layer's input over a whole data set, gathered batch by batch.

Variances must not be averaged: the variance of a set is the variance *within* its batches plus that
*between* their means, both weighted by count.
"""

import dataclasses
import math

import torch
from torch import Tensor

from batchnorm.ops.masks import take
from batchnorm.ops.parts import weighted_moments

__all__ = ["Moments", "moments_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Moments of one or more batches, per channel.

    Attributes:
        count: Values per channel; the sum of their weights, where a mask gives some.
        mean: ``(C,)``; float64.
        within: Sum of squared deviations from the mean of the own batch, ``(C,)``; float64.
        between: Sum over all values of the squared distance of their batch's mean from ``mean``,
            ``(C,)``; float64.
        batches: How many.
        excess: Σ w² − Σ w; 0 unless there are weights other than 0 and 1.
    """

    count: float
    mean: Tensor
    within: Tensor
    between: Tensor
    batches: int = 1
    excess: float = 0.0

    @property
    def var(self) -> Tensor:
        """Biased variance of all values, ``(C,)``."""
        return (self.within + self.between) / self.count

    @property
    def freedom(self) -> float:
        """Degrees of freedom, Σ w − Σ w² / Σ w: one less than the values, if each weighs 1."""
        freedom = self.count - 1 - self.excess / self.count
        # of one value that weighs 0.21, rounding is left
        return freedom if freedom > 1e-12 * self.count else 0.0

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the batches of both.

        References:
            Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", The American
            Statistician 37(3), equation 2.1.
        """
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.within + other.within,
            self.between + other.between + apart.square() * (self.count * other.count / count),
            self.batches + other.batches,
            self.excess + other.excess,
        )

    def as_one_batch(self) -> "Moments":
        """The same values, seen as one batch: several calls of a layer within one forward are one."""
        within, between = self.within + self.between, torch.zeros_like(self.mean)
        return Moments(self.count, self.mean, within, between, excess=self.excess)

    def is_finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(torch.isfinite(self.mean).all() & torch.isfinite(self.within).all())

    def standard_error(self) -> float:
        """Standard error of the mean in standard deviations, of the channel where it is largest.

        Estimated from the scatter of the batches' means, so it holds also where values within a
        batch depend on each other, as pixels do. NaN for fewer than 2 batches.
        """
        if self.batches < 2:
            return math.nan
        square = self.between / ((self.within + self.between) * (self.batches - 1))
        return math.sqrt(square.nan_to_num(0.0).max().item())  # 0 / 0: a constant channel is known

    def effective_count(self) -> float:
        """To how many independent values the mean of one batch is worth, the median over channels.

        The variance within batches over the variance of their means. Its standard error is a share
        of √(2 / (batches − 1)). NaN for fewer than 2 batches or where all channels are constant.
        """
        if self.batches < 2:
            return math.nan
        within = self.within / max(self.count - self.batches, 1)
        between = self.between * (self.batches / (self.count * (self.batches - 1)))
        return float((within / between).nanmedian())


# Values turned to float64 at a time. On a CPU a piece should stay in the cache: 2^18 took a sixth to
# a half of the time of a whole batch of 3 to 6 million values.
_PIECE_CPU = 2**18
_PIECE = 2**26


@torch.no_grad()
def moments_of(input: Tensor, weights: Tensor | None = None) -> Moments | None:
    """Moments of one batch, in two passes in float64.

    Args:
        input: Shape ``(N, C, *spatial)``, any floating dtype, layout and device.
        weights: Which positions count, or how much, ``(N, 1, *spatial)``; boolean or floating. What weighs 0
            may be anything.

    Returns:
        Moments on the input's device (on the CPU where the device has no float64); None if there are
        no values that count.

    Example:
        >>> batch = moments_of(torch.tensor([[1.0], [2.0], [6.0]]))
        >>> batch.count, batch.mean.item(), batch.within.item()
        (3, 3.0, 14.0)
    """
    if input.numel() == 0:
        return None
    if input.device.type == "mps":
        input, weights = input.cpu(), None if weights is None else weights.cpu()
    if weights is not None:
        return moments_of(take(input, weights)) if weights.dtype == torch.bool else _weighted(input, weights)
    dims = [dim for dim in range(input.dim()) if dim != 1]
    piece = _PIECE_CPU if input.device.type == "cpu" else _PIECE
    total: Moments | None = None
    for part in torch.split(input.detach(), max(1, piece * len(input) // input.numel())):
        values = part.double()
        mean = values.mean(dims, keepdim=True)
        within = (values - mean).square_().sum(dims)
        moments = Moments(part.numel() // part.shape[1], mean.flatten(), within, torch.zeros_like(within))
        total = moments if total is None else total.merge(moments)
    assert total is not None
    return total.as_one_batch()


def _weighted(input: Tensor, weights: Tensor) -> Moments | None:
    values = weighted_moments(input.detach().double(), (len(input),), weights)
    total, squares, mean, within = (value.flatten() for value in values)
    count = total.item()
    if not count:
        return None
    return Moments(count, mean, within, torch.zeros_like(within), excess=squares.item() - count)
