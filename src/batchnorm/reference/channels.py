"""Bookkeeping of ``(N, C, *spatial)`` arrays: sums per channel, views along channels, shape checks.

Everything here is about shapes; the formulas are in `batch_norm`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Array",
    "along_channels",
    "as_batch",
    "channel_mean",
    "channel_sum",
    "like",
    "per_channel",
    "training_batch",
]

Array = NDArray[np.float64]


def channel_sum(values: Array) -> Array:
    """Sum over all dimensions but the channels': ``(N, C, *spatial)`` to ``(C,)``.

    Numerics:
        Each channel becomes one contiguous row, which NumPy sums pairwise: the rounding error stays
        flat however many values there are.

    Example:
        >>> channel_sum(np.array([[1.0, 2.0], [10.0, 20.0]]))
        array([11., 22.])
    """
    rows = np.ascontiguousarray(np.moveaxis(values, 1, 0)).reshape(values.shape[1], -1)
    sums: Array = rows.sum(axis=1)
    return sums


def channel_mean(values: Array) -> Array:
    """Mean over all dimensions but the channels': ``(N, C, *spatial)`` to ``(C,)``."""
    count: int = values.size // values.shape[1]
    return channel_sum(values) / count


def along_channels(values: Array, x: Array) -> Array:
    """View ``(C,)`` as ``(1, C, 1, …)`` of the rank of ``x``, so that the two meet along the channels."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def per_channel(name: str, values: ArrayLike, x: Array) -> Array:
    """One value per channel of ``x``, viewed by `along_channels`.

    Raises:
        ValueError: If the shape is not ``(C,)``; the text calls the values ``name``.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape != x.shape[1:2]:
        raise ValueError(
            f"batch_norm: {name} expected shape {x.shape[1:2]}, one value per channel, got {values.shape}"
        )
    return along_channels(values, x)


def like(name: str, values: ArrayLike, x: Array) -> Array:
    """One value for each of ``x``.

    Raises:
        ValueError: If the shape is not that of ``x``; the text calls the values ``name``.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape != x.shape:
        raise ValueError(f"batch_norm: {name} expected the shape {x.shape} of x, got {values.shape}")
    return values


def as_batch(x: ArrayLike) -> Array:
    """``x`` in float64.

    Raises:
        ValueError: If it has fewer than 2 dimensions.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x expected shape (N, C, *spatial), got {x.shape}")
    return x


def training_batch(x: ArrayLike) -> Array:
    """``x`` in float64.

    Raises:
        ValueError: If it has fewer than 2 dimensions, or fewer than 2 values per channel.
    """
    x = as_batch(x)
    if x.size < 2 * x.shape[1] or x.size == 0:
        raise ValueError(
            f"batch_norm: x expected at least 2 values per channel in training, got shape {x.shape}"
        )
    return x
