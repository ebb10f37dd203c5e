"""Moments of parts of a batch, as they travel: how many values, their mean, their squared deviations.

Sums of squares cannot be merged without losing digits; these can, by the formula of Chan. Legend:
P parts, C channels. All are float64, so that merging costs nothing. ``total`` and ``squares`` are (P, 1),
or (P, C) where a mask leaves each channel other values; ``mean`` and ``m2`` are (P, C).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.ops import parts

__all__ = ["Moments", "measure"]


class Moments(NamedTuple):
    """What is known about the values of each part.

    Attributes:
        total: Σ w, the number of values if each weighs 1.
        squares: Σ w²; equal to ``total`` unless there are weights other than 0 and 1.
        mean: Σ w·x / Σ w; 0 where there are no values.
        m2: Σ w·(x − mean)².
    """

    total: Tensor
    squares: Tensor
    mean: Tensor
    m2: Tensor

    def var(self) -> Tensor:
        """Biased variance, (P, C); 0 where there are no values."""
        return self.m2 / _positive(self.total)

    def freedom(self) -> Tensor:
        """Σ w − Σ w² / Σ w: the degrees of freedom, M − 1 for M values; 0 for one value or none."""
        freedom = self.total - self.squares / _positive(self.total)
        # one value that weighs 0.21 leaves 1e-17
        return torch.where(freedom > 4 * torch.finfo(freedom.dtype).eps * self.total, freedom, 0)

    def detached(self) -> "Moments":
        """The same numbers, outside autograd."""
        return Moments(*(values.detach() for values in self))

    def packed(self) -> Tensor:
        """All in one tensor, (P, 2 + 2C) or (P, 4C)."""
        return torch.cat(tuple(self), dim=1)

    @staticmethod
    def unpacked(packed: Tensor, channels: int) -> "Moments":
        """The inverse of `packed`; leading dimensions are kept."""
        counts = (packed.shape[-1] - 2 * channels) // 2
        return Moments(*torch.split(packed, [counts, counts, channels, channels], dim=-1))

    def finite(self) -> "Moments":
        """The same, parts with a mean or variance that is not finite having no values."""
        good = (torch.isfinite(self.mean) & torch.isfinite(self.m2)).all(1, keepdim=True)
        return Moments(*(torch.where(good, values, 0) for values in self))

    def in_rows(self, rows: Sequence[int] | None, number: int) -> "Moments":
        """Spread the parts over ``number`` rows, each to its own; or merge all into one, without ``rows``."""
        if rows is None:
            return Moments(*(values[:, None] for values in self)).merged()
        places = torch.tensor(rows, device=self.mean.device)
        return Moments(*(v.new_zeros(number, v.shape[1]).index_copy(0, places, v) for v in self))

    def merged(self) -> "Moments":
        """Merge over the leading dimension of (W, P, …), which goes.

        References:
            Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
            variances", equation 2.1.
        """
        total = self.total.sum(0)
        mean = (self.total * self.mean).sum(0) / _positive(total)
        m2 = (self.m2 + self.total * (self.mean - mean) ** 2).sum(0)
        return Moments(total, self.squares.sum(0), mean, m2)


def _positive(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1)


def measure(input: Tensor, sizes: Sequence[int], weights: Tensor | None, kernels: Any) -> Moments:
    """Moments of the parts of a batch.

    Args:
        input: Shape ``(N, C, *spatial)``, floating.
        sizes: Samples of each part, N together.
        weights: Broadcastable to ``input``, at least 0; None for 1. Values that weigh 0 may be anything.
        kernels: Where the operator ``moments`` is; with weights plain torch operations do it.
    """
    if weights is None:
        count, mean, m2 = kernels.moments(input, sizes)
        return Moments(count[:, None], count[:, None], mean, m2)
    return Moments(*parts.weighted_moments(input, sizes, weights))
