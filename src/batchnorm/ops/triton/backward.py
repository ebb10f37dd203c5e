"""Backward: sums of dz and of dz · (x − mean), their merge, then the input's gradient.

In order of speed: dz kept for the second pass (one more tensor written and read); dz computed twice, from
what is at hand (these). With a residual dz is its gradient and must be written anyway; then the second
pass reads it instead of the gradient and the residual, wherever its dtype holds it exactly. With constant
statistics one pass does both.

The pre-activation is never stored: it is (x − mean) · scale + shift + residual again.

    batch_norm_bwd_reduce_kernel       both sums of each program's values; dz; dx if statistics are constants
    batch_norm_bwd_statistics_kernel   merges them for a whole batch into the gradients of weight and bias
    batch_norm_bwd_merge_kernel        merges them for each part
    batch_norm_bwd_kernel              dx = dz · scale + (x − mean) · slope + offset

Legend: see `tiles`; dz gradient of the pre-activation z, dx of the input.
"""

import triton
import triton.language as tl

from batchnorm.ops.triton.activations import through
from batchnorm.ops.triton.tiles import channel_sums, coefficients, lanes, locate, place

__all__ = [
    "batch_norm_bwd_kernel",
    "batch_norm_bwd_merge_kernel",
    "batch_norm_bwd_reduce_kernel",
    "batch_norm_bwd_statistics_kernel",
]


@triton.jit
def _gradient(
    grad_ptr,
    x_ptr,
    residual_ptr,
    here,
    mask,
    mean,
    scale,
    shift,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
):
    """Return dz and x − mean of a tile; dz is 0 where there are no values."""
    grad = tl.load(grad_ptr + here, mask=mask, other=0).to(ACC)
    d = tl.load(x_ptr + here, mask=mask, other=0).to(ACC) - mean
    z = d * scale + shift
    if residual_ptr is not None:
        z += tl.load(residual_ptr + here, mask=mask, other=0).to(ACC)
    return tl.where(mask, through(grad, z, ACTIVATION), 0.0), d


@triton.jit
def batch_norm_bwd_reduce_kernel(
    grad_ptr,
    x_ptr,
    residual_ptr,
    dz_ptr,
    dx_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    sum_ptr,
    centred_ptr,
    first_row,
    rows,
    C,
    S,
    tiles,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One program's Σ dz and Σ dz · (x − mean); writes dz, and dz · scale as dx, where there is room."""
    part, at, c0, row, first, end = locate(
        tl.program_id(0), first_row, rows, C, S, tiles, BLOCK_N, BLOCK_C, BLOCK_S
    )
    mean, scale, shift = coefficients(mean_ptr, var_ptr, weight_ptr, bias_ptr, part, c0, C, EPS, ACC, BLOCK_C)
    sums = tl.zeros([BLOCK_N, BLOCK_C, BLOCK_S], ACC)
    centred = tl.zeros([BLOCK_N, BLOCK_C, BLOCK_S], ACC)
    n, c, s, offsets = lanes(C, S, BLOCK_N, BLOCK_C, BLOCK_S, WIDE)
    for t in range(first, end):
        start, mask, _values = place(t, n, c, s, row, rows, c0, C, S, BLOCK_N, BLOCK_S)
        dz, d = _gradient(
            grad_ptr, x_ptr, residual_ptr, start + offsets, mask, mean, scale, shift, ACTIVATION, ACC
        )
        if dz_ptr is not None:
            tl.store(dz_ptr + start + offsets, dz, mask=mask)
        if dx_ptr is not None:
            tl.store(dx_ptr + start + offsets, dz * scale, mask=mask)
        sums += dz
        centred += dz * d
    channel = c0 + tl.arange(0, BLOCK_C)
    here = at.to(tl.int64) * C + channel
    tl.store(sum_ptr + here, channel_sums(sums).to(tl.float64), mask=channel < C)
    tl.store(centred_ptr + here, channel_sums(centred).to(tl.float64), mask=channel < C)


@triton.jit
def _merged(values_ptr, part, splits, channel, C, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sum over all programs, BLOCK_K of them at a time."""
    total = tl.zeros([BLOCK_C], tl.float64)
    for k0 in range(0, splits, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        here = (part.to(tl.int64) * splits + k)[:, None] * C + channel[None, :]
        mask = (k < splits)[:, None] & (channel < C)[None, :]
        total += tl.sum(tl.load(values_ptr + here, mask=mask, other=0), axis=0)
    return total


@triton.jit
def batch_norm_bwd_statistics_kernel(
    sum_ptr,
    centred_ptr,
    var_ptr,
    weight_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    slope_ptr,
    offset_ptr,
    count,
    splits,
    C,
    EPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of weight and bias, and what flows through the statistics unless they are constants.

    dx = scale · (dz − mean(dz) − x_hat · mean(dz · x_hat)) with x_hat = (x − mean) · invstd.
    """
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = channel < C
    part = tl.zeros([], tl.int32)
    sums = _merged(sum_ptr, part, splits, channel, C, BLOCK_K, BLOCK_C)
    centred = _merged(centred_ptr, part, splits, channel, C, BLOCK_K, BLOCK_C)
    invstd = 1 / tl.sqrt(tl.load(var_ptr + channel, mask=mask, other=1).to(tl.float64) + EPS)
    tl.store(grad_bias_ptr + channel, sums, mask=mask)
    tl.store(grad_weight_ptr + channel, centred * invstd, mask=mask)
    if slope_ptr is not None:
        scale = invstd
        if weight_ptr is not None:
            scale *= tl.load(weight_ptr + channel, mask=mask, other=0).to(tl.float64)
        tl.store(slope_ptr + channel, -scale * invstd * invstd * (centred / count), mask=mask)
        tl.store(offset_ptr + channel, -scale * (sums / count), mask=mask)


@triton.jit
def batch_norm_bwd_merge_kernel(
    partial_sum_ptr,
    partial_centred_ptr,
    sum_ptr,
    centred_ptr,
    splits,
    C,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Both sums of BLOCK_C channels of a part."""
    blocks = tl.cdiv(C, BLOCK_C)
    part = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    at = part.to(tl.int64) * C + channel
    sums = _merged(partial_sum_ptr, part, splits, channel, C, BLOCK_K, BLOCK_C)
    tl.store(sum_ptr + at, sums, mask=channel < C)
    centred = _merged(partial_centred_ptr, part, splits, channel, C, BLOCK_K, BLOCK_C)
    tl.store(centred_ptr + at, centred, mask=channel < C)


@triton.jit
def batch_norm_bwd_kernel(
    grad_ptr,
    x_ptr,
    residual_ptr,
    dx_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    slope_ptr,
    offset_ptr,
    first_row,
    rows,
    C,
    S,
    tiles,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write dx = dz · scale + (x − mean) · slope + offset; programs in opposite order, as in `forward`."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part, _at, c0, row, first, end = locate(program, first_row, rows, C, S, tiles, BLOCK_N, BLOCK_C, BLOCK_S)
    mean, scale, shift = coefficients(mean_ptr, var_ptr, weight_ptr, bias_ptr, part, c0, C, EPS, ACC, BLOCK_C)
    mean, slope, offset = coefficients(mean_ptr, None, slope_ptr, offset_ptr, part, c0, C, EPS, ACC, BLOCK_C)
    n, c, s, offsets = lanes(C, S, BLOCK_N, BLOCK_C, BLOCK_S, WIDE)
    for t in range(first, end):
        start, mask, _values = place(t, n, c, s, row, rows, c0, C, S, BLOCK_N, BLOCK_S)
        dz, d = _gradient(
            grad_ptr, x_ptr, residual_ptr, start + offsets, mask, mean, scale, shift, ACTIVATION, ACC
        )
        tl.store(dx_ptr + start + offsets, dz * scale + (d * slope + offset), mask=mask)
