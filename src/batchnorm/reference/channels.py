"""Bookkeeping of ``(N, C, *spatial)`` arrays: sums per channel, views along channels, checks.

Everything here is about shapes and dtypes; the formulas are in `batch_norm`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Array",
    "along_channels",
    "as_batch",
    "as_float64",
    "as_parts",
    "as_weights",
    "channel_mean",
    "channel_sum",
    "like",
    "per_channel",
    "row_of",
    "training_batch",
    "unmasked",
    "values_per_channel",
]

Array = NDArray[np.float64]


def values_per_channel(x: Array) -> int:
    """M = N · prod(spatial)."""
    return len(x) * math.prod(x.shape[2:])


def channel_sum(values: Array) -> Array:
    """Sum over all dimensions but the channels': ``(N, C, *spatial)`` to ``(C,)``.

    Numerics:
        Each channel becomes one contiguous row, which NumPy sums pairwise: the rounding error stays
        flat however many values there are.

    Example:
        >>> channel_sum(np.array([[1.0, 2.0], [10.0, 20.0]]))
        array([11., 22.])
    """
    rows = np.ascontiguousarray(np.moveaxis(values, 1, 0))
    sums: Array = rows.reshape(values.shape[1], values_per_channel(values)).sum(axis=1)
    return sums


def channel_mean(values: Array) -> Array:
    """Mean over all dimensions but the channels': ``(N, C, *spatial)`` to ``(C,)``."""
    return channel_sum(values) / values_per_channel(values)


def along_channels(values: Array, x: Array) -> Array:
    """View ``(C,)`` as ``(1, C, 1, …)`` of the rank of ``x``, so that the two meet along the channels."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def unmasked(name: str, values: ArrayLike) -> NDArray[Any]:
    """``values`` as an array.

    Raises:
        ValueError: If it has a mask of its own, which NumPy would drop here; the text calls it ``name``.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"batch_norm: {name} expected an array without a mask (weights say what counts), "
            "got a masked array"
        )
    return np.asarray(values)


def as_float64(name: str, values: ArrayLike) -> Array:
    """``values`` as an array of float64; refuses what `unmasked` does."""
    return unmasked(name, values).astype(np.float64, copy=False)


def per_channel(name: str, values: ArrayLike, x: Array) -> Array:
    """One value per channel of ``x``, viewed by `along_channels`.

    Raises:
        ValueError: If the shape is not ``(C,)``; the text calls the values ``name``.
    """
    values = as_float64(name, values)
    if values.shape != x.shape[1:2]:
        raise ValueError(
            f"batch_norm: {name} expected shape {x.shape[1:2]}, one value per channel, got {values.shape}"
        )
    return along_channels(values, x)


def like(name: str, values: ArrayLike, x: NDArray[Any], x_name: str = "x") -> Array:
    """One value for each of ``x``.

    Raises:
        ValueError: If the shape is not that of ``x``; the text calls the two ``name`` and ``x_name``.
    """
    values = as_float64(name, values)
    if values.shape != x.shape:
        raise ValueError(f"batch_norm: {name} expected the shape {x.shape} of {x_name}, got {values.shape}")
    return values


def as_batch(x: ArrayLike) -> Array:
    """``x`` in float64.

    Raises:
        ValueError: If it has fewer than 2 dimensions.
    """
    x = as_float64("x", x)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x expected shape (N, C, *spatial), got {x.shape}")
    return x


def training_batch(x: ArrayLike) -> Array:
    """``x`` in float64.

    Raises:
        ValueError: If it has fewer than 2 dimensions, or fewer than 2 values per channel.
    """
    x = as_batch(x)
    if values_per_channel(x) < 2:
        raise ValueError(
            f"batch_norm: x expected at least 2 values per channel in training, got shape {x.shape}"
        )
    return x


def as_weights(weights: ArrayLike | None, x: Array) -> Array:
    """One weight for each value of ``x``, from ``(N, 1 or C, *spatial)``; None for 1.

    Raises:
        ValueError: If they do not broadcast to ``x`` dimension by dimension, or one is negative or
            not finite.
    """
    weights = as_float64("weights", 1.0 if weights is None else weights)
    if weights.ndim == 0:
        weights = weights.reshape([1] * x.ndim)
    fits = weights.ndim == x.ndim and all(
        ours in (1, theirs) for ours, theirs in zip(weights.shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"batch_norm: weights expected a shape that broadcasts to {x.shape}, got {weights.shape}"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"batch_norm: weights expected finite values from 0 up, got {weights.min()} … {weights.max()}"
        )
    return np.broadcast_to(weights, x.shape)


def as_parts(parts: ArrayLike | None, x: Array) -> NDArray[np.int64]:
    """The part each sample belongs to, ``(N,)``; None for one part, number 0.

    Raises:
        ValueError: If they are not N integers of at least 0.
    """
    numbers = np.zeros(len(x), dtype=np.int64) if parts is None else unmasked("parts", parts)
    if numbers.shape != x.shape[:1] or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise ValueError(f"batch_norm: parts expected {len(x)} integers of at least 0, got {parts!r}")
    return numbers.astype(np.int64)


def row_of(name: str, pair: tuple[ArrayLike, ArrayLike], part: int, x: Array) -> tuple[Array, Array]:
    """Row ``part`` of two tables of one value per part and channel, each ``(P, C)`` to ``(C,)``.

    Raises:
        ValueError: If there is no such row or it is not one value per channel of ``x``; the text
            calls the pair ``name``.
    """
    first, second = (as_float64(name, values) for values in pair)
    for values in (first, second):
        if values.ndim != 2 or part >= len(values) or values.shape[1] != x.shape[1]:
            raise ValueError(
                f"batch_norm: {name} expected shape (P, {x.shape[1]}) with P above {part}, got {values.shape}"
            )
    return first[part], second[part]
