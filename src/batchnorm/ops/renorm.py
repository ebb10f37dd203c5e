"""Batch renormalization: the correction from a batch's statistics towards the running ones.

References:
    Ioffe 2017, arXiv:1702.03275, Algorithm 1.
"""

import torch
from torch import Tensor

__all__ = ["correction"]


def correction(
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    r_max: Tensor | float,
    d_max: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Return r and d: what a batch normalizes, ((x − mean) / σ_B) · r + d, is near (x − μ) / σ.

    r = σ_B / σ clipped to [1 / r_max, r_max] and d = (mean − μ) / σ clipped to [−d_max, d_max], with
    σ² = var + eps of the batch and of the running statistics. Both are constants for the gradient.

    Args:
        mean: The batch's, (P, C).
        var: The batch's biased variance, (P, C).
        running_mean: Before this batch moves it, (P, C) or (1, C).
        running_var: As ``running_mean``.
        eps: Added to both variances.
        r_max: At least 1; infinity for no clip.
        d_max: At least 0; infinity for no clip.
    """
    running_mean, invstd = running_mean.to(mean.dtype), (running_var.to(var.dtype) + eps).rsqrt()
    r, d = (var + eps).sqrt() * invstd, (mean - running_mean) * invstd
    r_max, d_max = (torch.as_tensor(limit, dtype=mean.dtype, device=mean.device) for limit in (r_max, d_max))
    return r.clamp(1 / r_max, r_max).detach(), d.clamp(-d_max, d_max).detach()
