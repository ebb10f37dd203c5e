"""What the kernels share: where a program works, how it loads, what it needs to know of its channels.

Legend: N rows, C channels, S values side by side (see `geometry`); t tile, n, c, s within a tile;
a tile is (BLOCK_N, BLOCK_C, BLOCK_S). K programs share a channel, each with its own partial sums.
ACC is the dtype of arithmetic: float64 for float64 data, else float32.
"""

import triton
import triton.language as tl

__all__ = ["channel_sums", "coefficients", "lanes", "locate", "place"]


@triton.jit
def _blocks(size, BLOCK):
    """How many blocks cover a size of at least 1. `tl.cdiv` adds before it divides, and may leave 32 bits."""
    return (size - 1) // BLOCK + 1


@triton.jit
def locate(
    program,
    first_row,
    rows,
    C,
    S,
    tiles,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Part, place among all partial sums, first channel, first row, first tile and end of a program.

    One dimension of the grid holds all of it, since the other two end at 65,535. Neighbouring programs
    have neighbouring channels, which are neighbours in memory.
    """
    of_part = _blocks(rows, BLOCK_N) * _blocks(S, BLOCK_S)
    splits, blocks = _blocks(of_part, tiles), _blocks(C, BLOCK_C)
    place = program // blocks
    part, split = place // splits, place % splits
    first_tile = split * tiles
    row = first_row + part.to(tl.int64) * rows
    return part, place, program % blocks * BLOCK_C, row, first_tile, tl.minimum(first_tile + tiles, of_part)


@triton.jit
def lanes(C, S, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, WIDE: tl.constexpr):
    """n, c and s of a tile's values, and their offsets from the first; with 64 bits only if WIDE."""
    n = tl.arange(0, BLOCK_N)[:, None, None]
    c = tl.arange(0, BLOCK_C)[None, :, None]
    s = tl.arange(0, BLOCK_S)[None, None, :]
    if WIDE:
        n = n.to(tl.int64)
    return n, c, s, n * C * S + c * S + s


@triton.jit
def place(t, n, c, s, row, rows, c0, C, S, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    """Offset of a tile in the tensor, a 64-bit scalar; which of its values exist; how many a channel has."""
    across = _blocks(S, BLOCK_S)
    n0 = (t // across).to(tl.int64) * BLOCK_N
    s0 = t % across * BLOCK_S
    start = (row + n0) * C * S + c0.to(tl.int64) * S + s0
    n_end = tl.minimum(rows - n0, BLOCK_N).to(tl.int32)
    s_end = tl.minimum(S - s0, BLOCK_S).to(tl.int32)
    return start, (n < n_end) & (c < C - c0) & (s < s_end), n_end * s_end


@triton.jit
def channel_sums(values):
    """Sum over a tile's rows and inner values, (BLOCK_C,)."""
    return tl.sum(tl.sum(values, axis=2), axis=0)


@triton.jit
def coefficients(
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    part,
    c0,
    C,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean, scale and shift in z = (x - mean) · scale + shift, each shaped to meet a tile.

    With ``var``, scale is weight / √(var + eps); without, ``weight`` is the scale itself.
    """
    channel = c0 + tl.arange(0, BLOCK_C)
    exists = channel < C
    at = part.to(tl.int64) * C + channel
    mean = tl.load(mean_ptr + at, mask=exists, other=0).to(ACC)
    scale = tl.full([BLOCK_C], 1, ACC)
    if var_ptr is not None:
        scale = 1 / tl.sqrt(tl.load(var_ptr + at, mask=exists, other=1).to(ACC) + EPS)
    if weight_ptr is not None:
        scale *= tl.load(weight_ptr + at, mask=exists, other=0).to(ACC)
    shift = tl.zeros([BLOCK_C], ACC)
    if bias_ptr is not None:
        shift = tl.load(bias_ptr + at, mask=exists, other=0).to(ACC)
    return mean[None, :, None], scale[None, :, None], shift[None, :, None]
