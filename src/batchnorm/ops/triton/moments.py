"""Mean and variance: partial ones by many programs, then merged.

In order of speed: one program a channel (64 channels leave half of a chip idle); K programs a channel,
each with a partial mean and M2, merged afterwards in a fixed order (these). Atomic additions would save
the merge, and give other bits at each call.

    batch_norm_moments_kernel         count, mean and M2 = Σ(x − mean)² of each program's values
    batch_norm_statistics_kernel      merges them for a whole batch; moves the running statistics
    batch_norm_merge_moments_kernel   merges them for each part

Legend: see `tiles`.
"""

import triton
import triton.language as tl
from torch import Tensor

from batchnorm.ops.triton.geometry import Run
from batchnorm.ops.triton.tiles import channel_sums, lanes, locate, place
from batchnorm.ops.triton.view import OPTIONS, View

__all__ = [
    "MERGE",
    "Partials",
    "batch_norm_statistics_kernel",
    "merge_grid",
    "moments",
    "move",
    "partial_moments",
]

MERGE = {"BLOCK_K": 256, "BLOCK_C": 4, "num_warps": 4, **OPTIONS}
"""Tile of the kernels that merge partial sums. They read little and wait for all of it: many programs, each
with few turns of its loop, which reads 32 bytes side by side, the least that memory hands out."""

Partials = tuple[Tensor, Tensor, Tensor]
"""count (P, K), mean and m2 (P, K, C), float64."""


@triton.jit
def batch_norm_moments_kernel(
    x_ptr,
    count_ptr,
    mean_ptr,
    m2_ptr,
    first_row,
    rows,
    C,
    S,
    tiles,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One program's count, mean and M2.

    Sums of d = x − shift and of d², shift being the mean of the program's first tile: what E[x²] − E[x]²
    loses by a large mean is lost only by a large mean of d.
    """
    _, at, c0, row, first, end = locate(
        tl.program_id(0), first_row, rows, C, S, tiles, BLOCK_N, BLOCK_C, BLOCK_S
    )
    n, c, s, offsets = lanes(C, S, BLOCK_N, BLOCK_C, BLOCK_S, WIDE)
    start, mask, values = place(first, n, c, s, row, rows, c0, C, S, BLOCK_N, BLOCK_S)
    x = tl.load(x_ptr + start + offsets, mask=mask, other=0).to(ACC)
    shift = channel_sums(x) / values
    sums = tl.zeros([BLOCK_N, BLOCK_C, BLOCK_S], ACC)
    squares = tl.zeros([BLOCK_N, BLOCK_C, BLOCK_S], ACC)
    count = tl.zeros([], tl.int32)
    for t in range(first, end):
        start, mask, values = place(t, n, c, s, row, rows, c0, C, S, BLOCK_N, BLOCK_S)
        x = tl.load(x_ptr + start + offsets, mask=mask, other=0).to(ACC)
        d = tl.where(mask, x - shift[None, :, None], 0.0)
        sums += d
        squares += d * d
        count += values
    sums = channel_sums(sums).to(tl.float64)
    m2 = channel_sums(squares).to(tl.float64) - sums * sums / count
    channel = c0 + tl.arange(0, BLOCK_C)
    here = at.to(tl.int64) * C + channel
    tl.store(mean_ptr + here, shift.to(tl.float64) + sums / count, mask=channel < C)
    tl.store(m2_ptr + here, tl.where(m2 < 0, 0.0, m2), mask=channel < C)
    tl.store(count_ptr + at, count.to(tl.float64), mask=c0 == 0)


@triton.jit
def _merged(
    count_ptr, mean_ptr, m2_ptr, part, splits, channel, C, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Count, mean and M2 of all programs together, BLOCK_K at a time (Chan, Golub & LeVeque 1983)."""
    count = tl.zeros([], tl.float64)
    mean = tl.zeros([BLOCK_C], tl.float64)
    m2 = tl.zeros([BLOCK_C], tl.float64)
    for k0 in range(0, splits, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        at = part.to(tl.int64) * splits + k
        counts = tl.load(count_ptr + at, mask=k < splits, other=0)
        here, mask = at[:, None] * C + channel[None, :], (k < splits)[:, None] & (channel < C)[None, :]
        means = tl.load(mean_ptr + here, mask=mask, other=0)
        more = tl.sum(counts, axis=0)
        more_mean = tl.sum(counts[:, None] * means, axis=0) / more
        d = tl.where(mask, means - more_mean[None, :], 0.0)
        more_m2 = tl.sum(tl.load(m2_ptr + here, mask=mask, other=0) + counts[:, None] * d * d, axis=0)
        share = more / (count + more)
        delta = more_mean - mean
        mean += delta * share
        m2 += more_m2 + delta * delta * count * share
        count += more
    return count, mean, m2


@triton.jit
def move(running_ptr, at, mask, batch, momentum):
    """Move running ← (1 − momentum) · running + momentum · batch, in float64."""
    old = tl.load(running_ptr + at, mask=mask, other=0).to(tl.float64)
    tl.store(running_ptr + at, (1 - momentum) * old + momentum * batch, mask=mask)


@triton.jit
def batch_norm_statistics_kernel(
    count_ptr,
    partial_mean_ptr,
    partial_m2_ptr,
    mean_ptr,
    var_ptr,
    running_mean_ptr,
    running_var_ptr,
    batches_ptr,
    momentum: tl.float64,
    splits,
    C,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and biased variance of BLOCK_C channels of the batch; moves the running ones, if there are any."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = channel < C
    count, mean, m2 = _merged(
        count_ptr,
        partial_mean_ptr,
        partial_m2_ptr,
        tl.zeros([], tl.int32),
        splits,
        channel,
        C,
        BLOCK_K,
        BLOCK_C,
    )
    mean, var = mean.to(mean_ptr.dtype.element_ty), (m2 / count).to(var_ptr.dtype.element_ty)
    tl.store(mean_ptr + channel, mean, mask=mask)
    tl.store(var_ptr + channel, var, mask=mask)
    if running_mean_ptr is not None:
        unbiased = count / tl.maximum(count - 1, 1)
        move(running_mean_ptr, channel, mask, mean.to(tl.float64), momentum)
        move(running_var_ptr, channel, mask, var.to(tl.float64) * unbiased, momentum)
        if batches_ptr is not None:
            first = tl.program_id(0) == 0
            tl.store(batches_ptr, tl.load(batches_ptr) + 1, mask=first)


@triton.jit
def batch_norm_merge_moments_kernel(
    partial_count_ptr,
    partial_mean_ptr,
    partial_m2_ptr,
    count_ptr,
    mean_ptr,
    m2_ptr,
    splits,
    C,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Count, mean and M2 of BLOCK_C channels of a part."""
    blocks = tl.cdiv(C, BLOCK_C)
    part = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    count, mean, m2 = _merged(
        partial_count_ptr, partial_mean_ptr, partial_m2_ptr, part, splits, channel, C, BLOCK_K, BLOCK_C
    )
    at = part.to(tl.int64) * C + channel
    tl.store(mean_ptr + at, mean, mask=channel < C)
    tl.store(m2_ptr + at, m2, mask=channel < C)
    tl.store(count_ptr + part, count, mask=tl.program_id(0) % blocks == 0)


def merge_grid(view: View, parts: int = 1) -> tuple[int]:
    """Programs of the kernels that merge."""
    return (parts * -(-view.channels // MERGE["BLOCK_C"]),)


def partial_moments(view: View, run: Run) -> Partials:
    """What each program finds."""
    splits, channels = view.cut(run).splits, view.channels
    partials = (
        view.doubles(run.parts, splits),
        view.doubles(run.parts, splits, channels),
        view.doubles(run.parts, splits, channels),
    )
    batch_norm_moments_kernel[view.grid(run)](view.x, *partials, **view.tiling(run))
    return partials


def moments(input: Tensor, sizes: list[int]) -> Partials:
    """See `parts.moments`."""
    view = View("moments", input)
    results = tuple(
        view.doubles(*shape).zero_() for shape in ((len(sizes),), *2 * [(len(sizes), view.channels)])
    )
    for run in view.runs(sizes):
        partials = partial_moments(view, run)
        rows = [values[run.first_part :] for values in results]
        batch_norm_merge_moments_kernel[merge_grid(view, run.parts)](
            *partials, *rows, partials[1].shape[1], view.channels, **MERGE
        )
    count, mean, m2 = results
    return count, mean, m2
