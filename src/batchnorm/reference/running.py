"""How each kind of statistics moves the running ones.

    running = (1 − momentum) · running + momentum · batch

with the unbiased variance, whatever the kind. One part moves one row:

    batch, masked, synced   the one part (of `merge_moments` over the ranks), the one row
    accumulated             `merge_moments` over the micro-batches, then once, the one row
    domains, per step       part p moves row p: `update_running_rows`
    ghost                   all parts move the one row, one after the other: `update_running_ghost`
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchnorm.reference.channels import Array, as_float64, like, unmasked
from batchnorm.reference.moments import Moments

__all__ = ["update_running_ghost", "update_running_rows"]


def update_running_rows(
    running_mean: ArrayLike,
    running_var: ArrayLike,
    num_batches_tracked: ArrayLike,
    moments: Moments,
    momentum: float | None = 0.1,
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Move row p of the running statistics towards part p.

    A channel of a row with fewer than 2 values of positive weight has no unbiased variance and stays as
    it is; a row where no channel moves is not counted.

    Args:
        running_mean: ``(P, C)``, or ``(C,)`` for a single row.
        running_var: Likewise.
        num_batches_tracked: ``(P,)``, or ``()`` for a single row: batches that moved the row before.
        moments: Of the shape of ``running_mean``.
        momentum: Weight of the *new* batch; None for 1 / (batches of the row so far).

    Returns:
        New ``running_mean``, ``running_var`` and ``num_batches_tracked``.

    Raises:
        ValueError: If a shape does not fit.

    References:
        Cooijmans et al. 2016, arXiv:1603.09025, section 3, for a row a time step.

    Example:
        The second row had no batch.

        >>> batch = Moments(*np.array([[[2.0], [0.0]], [[2.0], [0.0]], [[2.0], [0.0]], [[2.0], [0.0]]]))
        >>> mean, var, batches = update_running_rows([[0.0], [0.0]], [[1.0], [1.0]], [0, 0], batch)
        >>> mean.tolist(), var.tolist(), batches.tolist()
        ([[0.2], [0.0]], [[1.1], [1.0]], [1, 0])
    """
    running_mean = as_float64("running_mean", running_mean)
    running_var = like("running_var", running_var, running_mean, "running_mean")
    moments = Moments(*(like("moments", field, running_mean, "running_mean") for field in moments))
    moved = moments.freedom > 0
    counted = np.asarray(moved.any(axis=-1))
    before = like("num_batches_tracked", num_batches_tracked, counted, "the rows")
    tracked = before.astype(np.int64) + counted
    new = 1 / np.maximum(tracked, 1)[..., None] if momentum is None else momentum
    return (
        np.where(moved, (1 - new) * running_mean + new * moments.mean, running_mean),
        np.where(moved, (1 - new) * running_var + new * moments.var_unbiased, running_var),
        tracked,
    )


def update_running_ghost(
    running_mean: ArrayLike,
    running_var: ArrayLike,
    num_batches_tracked: ArrayLike,
    moments: Moments,
    momentum: float | None = 0.1,
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Move the running statistics towards each part in turn, as if each were a batch.

    For n parts that is

        running = (1 − momentum)ⁿ · running + Σ momentum · (1 − momentum)ⁿ⁻ᵖ · part_p,   p = 1 … n

    and each counts in ``num_batches_tracked``. With momentum None it is the plain mean over all parts
    so far.

    Args:
        running_mean: ``(C,)``.
        running_var: ``(C,)``.
        num_batches_tracked: Parts before these, ``()``.
        moments: ``(P, C)``, or ``(C,)`` for a single part.
        momentum: Weight of each new part.

    Returns:
        New ``running_mean``, ``running_var`` and ``num_batches_tracked``.

    Raises:
        ValueError: If a shape does not fit.

    References:
        Hoffer, Hubara & Soudry 2017, arXiv:1705.08741, Algorithm 1. It averages standard deviations;
        this averages variances, as all kinds here do.

    Example:
        >>> halves = Moments(*np.array([[[2.0], [2.0]], [[2.0], [2.0]], [[2.0], [8.0]], [[2.0], [0.0]]]))
        >>> mean, var, parts = update_running_ghost([0.0], [1.0], 0, halves, momentum=0.5)
        >>> mean.tolist(), var.tolist(), parts.tolist()
        ([4.5], [0.75], 2)
    """
    running = (
        as_float64("running_mean", running_mean),
        as_float64("running_var", running_var),
        unmasked("num_batches_tracked", num_batches_tracked),
    )
    for fields in zip(*map(np.atleast_2d, moments), strict=True):
        running = update_running_rows(*running, Moments(*fields), momentum)
    return running
