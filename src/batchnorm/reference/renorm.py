"""Batch renormalization: a correction that brings training close to what prediction will compute.

    x_hat · r + d   with   r = σ_B / σ,   d = (μ_B − μ) / σ

for μ_B and σ_B = √(var + eps) of the batch and μ and σ = √(running_var + eps) of prediction. Since
x_hat = (x − μ_B) / σ_B, it equals (x − μ) / σ. Clipping r and d limits how far prediction's statistics may
pull; 1 and 0 leave plain batch normalization. Both are constants in the backward.

References:
    Ioffe 2017, arXiv:1702.03275, Algorithm 1; section 4 for the schedule.
"""

import numpy as np
from numpy.typing import ArrayLike

from batchnorm.reference.channels import Array, as_float64

__all__ = ["renorm_correction", "renorm_limits"]


def renorm_correction(
    mean: ArrayLike,
    var: ArrayLike,
    running_mean: ArrayLike,
    running_var: ArrayLike,
    r_max: float,
    d_max: float,
    eps: float = 1e-5,
) -> tuple[Array, Array]:
    """The correction r, in [1/r_max, r_max], and d, in [−d_max, d_max].

    Args:
        mean: What x is normalized with, from `normalizing_stats`, ``(P, C)`` or ``(C,)``.
        var: Likewise; the biased variance.
        running_mean: As it was *before* this batch moved it; broadcastable to ``mean``.
        running_var: Likewise.
        r_max: At least 1; may be infinite.
        d_max: At least 0; may be infinite.
        eps: Added to both variances.

    Returns:
        ``r`` and ``d``, of the shape of ``mean``.

    Raises:
        ValueError: If ``r_max`` is below 1 or ``d_max`` below 0.

    Example:
        >>> renorm_correction([3.0], [16.0], [1.0], [4.0], r_max=1.5, d_max=5.0, eps=0.0)
        (array([1.5]), array([1.]))
    """
    # not the other way round, so that NaN is refused too
    if not r_max >= 1:
        raise ValueError(f"batch_norm: r_max expected at least 1, got {r_max}")
    if not d_max >= 0:
        raise ValueError(f"batch_norm: d_max expected at least 0, got {d_max}")
    mean, var = as_float64("mean", mean), as_float64("var", var)
    running_mean = as_float64("running_mean", running_mean)
    running_var = as_float64("running_var", running_var)
    sigma = np.sqrt(running_var + eps)
    r = np.clip(np.sqrt(var + eps) / sigma, 1 / r_max, r_max)
    d = np.clip((mean - running_mean) / sigma, -d_max, d_max)
    return r, d


def renorm_limits(
    step: int, r_max: float = 3.0, d_max: float = 5.0, warmup: int | tuple[int, int, int] = 0
) -> tuple[float, float]:
    """The limits of r and d at a step of training.

    Up to ``start`` they are 1 and 0, plain batch normalization; from there the limit of r grows
    linearly to ``r_max`` at ``r_end`` and that of d to ``d_max`` at ``d_end``.

    Args:
        step: Batches before this one.
        r_max: Final limit of r.
        d_max: Final limit of d.
        warmup: ``(start, r_end, d_end)`` in steps; w for (w, 8w, 5w), the paper's 5000, 40000 and
            25000; 0 for the final limits at once.

    Returns:
        The limits of r and d.

    Example:
        >>> renorm_limits(15_000, warmup=5000)
        (1.5714285714285714, 2.5)
    """
    # a layer's counter is a tensor, and so would the limits be
    step = int(step)
    if isinstance(warmup, int | np.integer):
        warmup = (int(warmup), 8 * int(warmup), 5 * int(warmup))
    start, r_end, d_end = warmup
    return _grown(step, start, r_end, 1.0, r_max), _grown(step, start, d_end, 0.0, d_max)


def _grown(step: int, start: int, end: int, first: float, last: float) -> float:
    if step >= end:
        return last
    if step <= start:
        return first
    return first + (last - first) * (step - start) / (end - start)
