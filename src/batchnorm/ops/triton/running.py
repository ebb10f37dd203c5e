"""The running statistics, moved in a launch of their own: one program, since all channels decide together.

A training step needs this only where `batch_norm_statistics_kernel` cannot do it: with ``skip_nonfinite`` no
channel may move before all are known, and with the cumulative mean no program may read the counter while
another counts.
"""

import triton
import triton.language as tl
from torch import Tensor

from batchnorm.ops.triton.moments import move
from batchnorm.ops.triton.view import OPTIONS

__all__ = ["update_running_stats"]

BLOCK_C = 1024


@triton.jit
def batch_norm_running_kernel(
    running_mean_ptr,
    running_var_ptr,
    batches_ptr,
    mean_ptr,
    var_ptr,
    count,
    momentum: tl.float64,
    C,
    CUMULATIVE: tl.constexpr,
    SKIP: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Move running ← (1 − momentum) · running + momentum · batch, unless SKIP and a value is not finite."""
    nonfinite = tl.zeros([], tl.int32)
    if SKIP:
        for c0 in range(0, C, BLOCK_C):
            channel = c0 + tl.arange(0, BLOCK_C)
            mean = tl.load(mean_ptr + channel, mask=channel < C, other=0)
            var = tl.load(var_ptr + channel, mask=channel < C, other=0)
            finite = (tl.abs(mean) < float("inf")) & (tl.abs(var) < float("inf"))
            nonfinite += tl.sum(tl.where(finite, 0, 1), axis=0)
    usable = nonfinite == 0
    weight = tl.zeros([], tl.float64) + momentum
    if batches_ptr is not None:
        batches = tl.load(batches_ptr) + usable.to(tl.int64)
        tl.store(batches_ptr, batches)
        if CUMULATIVE:
            weight = 1 / tl.maximum(batches, 1).to(tl.float64)
    count = tl.zeros([], tl.float64) + count
    unbiased = count / tl.maximum(count - 1, 1)
    end = tl.where(usable, C, 0)
    for c0 in range(0, C, BLOCK_C):
        channel = c0 + tl.arange(0, BLOCK_C)
        mask = channel < end
        mean = tl.load(mean_ptr + channel, mask=mask, other=0).to(tl.float64)
        var = tl.load(var_ptr + channel, mask=mask, other=0).to(tl.float64)
        move(running_mean_ptr, channel, mask, mean, weight)
        move(running_var_ptr, channel, mask, var * unbiased, weight)


def update_running_stats(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    mean: Tensor,
    var: Tensor,
    count: int,
    momentum: float | None,
    skip_nonfinite: bool,
) -> None:
    """See `eager.update_running_stats`."""
    for name, values in (("running_var", running_var), ("mean", mean), ("var", var)):
        if values.shape != running_mean.shape:
            raise RuntimeError(
                f"update_running_stats: {name} expected shape {tuple(running_mean.shape)}, "
                f"got {tuple(values.shape)}"
            )
    if count == 0:
        if num_batches_tracked is not None:
            num_batches_tracked.add_(1)
        return
    moved = [values.contiguous() for values in (running_mean, running_var)]
    batch_norm_running_kernel[(1,)](
        *moved,
        num_batches_tracked,
        mean.contiguous(),
        var.contiguous(),
        count,
        momentum or 0.0,
        len(running_mean),
        CUMULATIVE=momentum is None,
        SKIP=skip_nonfinite,
        BLOCK_C=BLOCK_C,
        **OPTIONS,
    )
    for values, result in zip((running_mean, running_var), moved, strict=True):
        if values is not result:
            values.copy_(result)
