"""Weighted moments of each part of a batch, and how those of two batches become those of both.

Which values share their statistics is what tells the kinds of batch normalization apart:

    the textbook's   all values of a channel                      one part, every weight 1
    masked           those that are not padding                   weights 0 and 1, or any above 0
    synced           those of all ranks                           `merge_moments` over the ranks
    accumulated      those of several micro-batches               `merge_moments` over them, for prediction
    ghost            those of a small group of samples            a part for each group
    domains          those of the samples of one domain           a part for each domain

References:
    Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances", Stanford STAN-CS-79-773, for merging.
"""

from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from batchnorm.reference.channels import (
    Array,
    along_channels,
    as_batch,
    as_parts,
    as_weights,
    channel_sum,
    like,
)

__all__ = ["Moments", "merge_moments", "normalizing_stats", "part_moments", "weighted_moments"]

# V1 − V2/V1 of a single value is 0, but for the rounding of V2 and of the quotient.
ROUNDING = 4 * np.finfo(np.float64).eps


class Moments(NamedTuple):
    """Sums that say all that batch normalization asks of a set of values x with weights w.

    All four have one shape: ``(P, C)``, or ``(C,)`` for a single part. Without values all are 0.
    """

    weight_sum: Array  # V1 = Σ w
    weight_square_sum: Array  # V2 = Σ w²
    mean: Array  # Σ w·x / V1
    m2: Array  # Σ w·(x − mean)²

    @property
    def var(self) -> Array:
        """Biased variance, m2 / V1: the one that normalizes."""
        return _quotient(self.m2, self.weight_sum)

    @property
    def freedom(self) -> Array:
        """V1 − V2/V1: M − 1 for M weights of 1, and 0 for none or one value."""
        freedom = self.weight_sum - _quotient(self.weight_square_sum, self.weight_sum)
        return np.where(freedom > ROUNDING * self.weight_sum, freedom, 0.0)

    @property
    def var_unbiased(self) -> Array:
        """m2 / (V1 − V2/V1): the one that running statistics keep; 0 where there is none.

        The weights say how reliable a value is, so doubling all of them changes nothing. With
        weights of 0 and 1 it is m2 / (M − 1).
        """
        return _quotient(self.m2, self.freedom)


def weighted_moments(x: Array, weights: Array) -> Moments:
    """Moments of each channel of one part.

    Args:
        x: Shape ``(N, C, *spatial)``; what stands where the weight is 0 does not matter, NaN neither.
        weights: Shape of ``x``.

    Returns:
        Moments of shape ``(C,)``.

    Example:
        >>> moments = weighted_moments(np.array([[1.0], [5.0], [9.0]]), np.array([[3.0], [1.0], [0.0]]))
        >>> moments.mean, moments.var, moments.var_unbiased
        (array([2.]), array([3.]), array([8.]))
    """
    x = np.where(weights > 0, x, 0.0)
    weight_sum = channel_sum(weights)
    mean = _quotient(channel_sum(weights * x), weight_sum)
    m2 = channel_sum(weights * (x - along_channels(mean, x)) ** 2)
    return Moments(weight_sum, channel_sum(weights**2), mean, m2)


def part_moments(
    x: ArrayLike,
    weights: ArrayLike | None = None,
    parts: ArrayLike | None = None,
    num_parts: int | None = None,
) -> Moments:
    """Moments of each part and channel of a batch.

    Args:
        x: Input, shape ``(N, C, *spatial)``.
        weights: Of each value, broadcastable as ``(N, 1 or C, *spatial)``, at least 0; a mask is
            weights of 0 and 1; None for 1.
        parts: The part each sample belongs to, ``(N,)`` integers from 0; None for one part.
        num_parts: P, where it shall count parts without samples too; None for as many as ``parts`` names.

    Returns:
        Moments of shape ``(P, C)``.

    Raises:
        ValueError: If a shape does not fit, a weight is negative or a part is not below ``num_parts``.

    Example:
        >>> part_moments([[1.0], [3.0], [7.0]], parts=[0, 0, 2]).mean.tolist()
        [[2.0], [0.0], [7.0]]
    """
    x = as_batch(x)
    numbers, w = as_parts(parts, x), as_weights(weights, x)
    named = 1 + int(numbers.max(initial=0))
    num_parts = named if num_parts is None else num_parts
    if named > num_parts:
        raise ValueError(f"batch_norm: parts expected numbers below {num_parts}, got {named - 1}")
    rows = [weighted_moments(x[numbers == part], w[numbers == part]) for part in range(num_parts)]
    return Moments(*(np.stack(field) for field in zip(*rows, strict=True)))


def merge_moments(*moments: Moments) -> Moments:
    """Moments of all the values that the given moments are of, as if they had stood in one batch.

    With δ = mean_b − mean_a, for each part and channel

        V1   = V1_a + V1_b
        mean = mean_a + δ · V1_b / V1
        m2   = m2_a + m2_b + δ² · V1_a · V1_b / V1

    and V2 is the sum of both. A side without values changes nothing.

    Args:
        moments: One or more, of one shape.

    Returns:
        Moments of that shape.

    Example:
        >>> both = merge_moments(part_moments([[1.0], [3.0]]), part_moments([[8.0]]))
        >>> both.mean.item(), both.m2.item()
        (4.0, 26.0)
    """
    return reduce(_merge_two, moments)


def _merge_two(a: Moments, b: Moments) -> Moments:
    weight_sum = a.weight_sum + b.weight_sum
    apart = b.mean - a.mean
    share = _quotient(b.weight_sum, weight_sum)
    return Moments(
        weight_sum,
        a.weight_square_sum + b.weight_square_sum,
        a.mean + apart * share,
        a.m2 + b.m2 + apart**2 * a.weight_sum * share,
    )


def normalizing_stats(
    moments: Moments, fallback: tuple[ArrayLike, ArrayLike] | None = None
) -> tuple[Array, Array]:
    """The mean and variance that values are normalized with: their own, or constants.

    Args:
        moments: ``(P, C)``, or ``(C,)`` for one part.
        fallback: ``mean`` and ``var``, as a rule the running ones, for a part and channel with fewer
            than 2 values of positive weight (one value would always become ``bias``); of the same shape.

    Returns:
        ``mean`` and ``var``, of the same shape.

    Raises:
        ValueError: If a fallback is needed and none is given, or it is of another shape.
    """
    lacking = moments.freedom == 0
    if fallback is None:
        if lacking.any():
            raise ValueError(
                "batch_norm: x expected at least 2 values of positive weight in each part and channel, "
                f"got fewer in {np.argwhere(lacking).tolist()}"
            )
        return moments.mean, moments.var
    mean, var = (like("fallback", values, moments.mean, "the moments") for values in fallback)
    return np.where(lacking, mean, moments.mean), np.where(lacking, var, moments.var)


def _quotient(values: Array, by: Array) -> Array:
    """``values / by``, and 0 where ``by`` is 0."""
    return np.divide(values, by, out=np.zeros_like(values), where=by > 0)
