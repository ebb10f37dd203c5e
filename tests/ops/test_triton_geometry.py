"""How tensors are cut, with sizes that no memory holds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.ops.triton.geometry import LONGEST_SPLIT, TILE, Run, cut, runs
from tests.interpreter import INTERPRETED, check_overflow

sizes = st.one_of(st.integers(1, 70), st.integers(1, 2**34))


@given(rows=sizes, channels=st.integers(1, 5000), inner=st.one_of(st.just(1), st.integers(1, 2**20)))
def test_programs_cover_every_value_and_are_neither_too_large_nor_empty(rows, channels, inner):
    pieces = cut(rows, channels, inner)
    blocks = pieces.block_n, pieces.block_c, pieces.block_s
    assert all(block & (block - 1) == 0 for block in blocks)
    assert pieces.block_n * pieces.block_c * pieces.block_s <= TILE
    assert 1 <= pieces.tiles <= LONGEST_SPLIT
    tiles = -(-rows // pieces.block_n) * -(-inner // pieces.block_s)
    assert (pieces.splits - 1) * pieces.tiles < tiles <= pieces.splits * pieces.tiles
    assert (pieces.channel_blocks - 1) * pieces.block_c < channels <= pieces.channel_blocks * pieces.block_c
    assert pieces.wide == (pieces.block_n * channels * inner >= 2**31)


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((128, 64, 56 * 56), (16, 1, 256)),
        ((128 * 56 * 56, 64, 1), (64, 64, 1)),
        ((256, 2048, 49), (16, 4, 64)),
        ((256 * 49, 2048, 1), (16, 256, 1)),
        ((1, 3, 10**6), (1, 1, 4096)),
        ((4, 320, 1), (4, 64, 1)),
    ],
)
def test_tiles_of_networks_are_full_and_read_neighbours(shape, blocks):
    pieces = cut(*shape)
    assert (pieces.block_n, pieces.block_c, pieces.block_s) == blocks


@given(st.lists(st.integers(0, 3)))
def test_runs_are_all_parts_that_are_not_empty(sizes):
    found = [
        (run.first_part + k, run.first_sample + k * run.size, run.size)
        for run in runs(sizes)
        for k in range(run.parts)
    ]
    starts = np.cumsum([0, *sizes]).tolist()
    assert found == [(p, starts[p], size) for p, size in enumerate(sizes) if size]


def test_ghost_batches_of_one_size_are_one_launch():
    assert list(runs([32] * 8 + [7])) == [Run(0, 0, 8, 32), Run(256, 8, 1, 7)]


if INTERPRETED:
    import triton
    import triton.language as tl

    from batchnorm.ops.triton.tiles import lanes, locate, place

    @triton.jit
    def last_tile_kernel(
        offsets_ptr,
        mask_ptr,
        program,
        first_row,
        rows,
        C,
        S,
        tiles,
        BLOCK_N: tl.constexpr,
        BLOCK_C: tl.constexpr,
        BLOCK_S: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        _part, _at, c0, row, _first, end = locate(
            program, first_row, rows, C, S, tiles, BLOCK_N, BLOCK_C, BLOCK_S
        )
        n, c, s, offsets = lanes(C, S, BLOCK_N, BLOCK_C, BLOCK_S, WIDE)
        start, mask, _values = place(end - 1, n, c, s, row, rows, c0, C, S, BLOCK_N, BLOCK_S)
        here = n * BLOCK_C * BLOCK_S + c * BLOCK_S + s
        tl.store(offsets_ptr + here, start + offsets)
        tl.store(mask_ptr + here, mask.to(tl.int32))


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize(
    ("rows", "channels", "inner"),
    [
        (2**20 + 1, 2048, 49),  # 10^11 values
        (2**33 + 3, 3, 1),  # more rows than 32 bits hold
        (2**31 - 1, 3, 1),  # as many as they hold
        (3, 2, 2**31 - 1),
        (2**30 + 1, 3, 1),  # more in all parts together
        (3, 2, 2**31 + 5),
        (70, 2**21, 100),  # a tile spans 2^31 values
        (3, 2**20, 5000),  # a sample does
    ],
)
def test_the_last_value_is_found_where_32_bits_cannot_reach(rows, channels, inner):
    pieces = cut(rows, channels, inner)
    parts, first_row = 3, 5
    shape = pieces.block_n, pieces.block_c, pieces.block_s
    offsets, mask = np.empty(shape, np.int64), np.empty(shape, np.int32)
    check_overflow(True)
    try:
        last_tile_kernel[(1,)](
            torch.from_numpy(offsets),
            torch.from_numpy(mask),
            parts * pieces.splits * pieces.channel_blocks - 1,
            first_row,
            rows,
            channels,
            inner,
            pieces.tiles,
            *shape,
            pieces.wide,
        )
    finally:
        check_overflow(False)
    assert offsets[mask > 0].max() == (first_row + parts * rows) * channels * inner - 1
    n, c, s = (count - (-(-count // block) - 1) * block for count, block in zip(
        (rows, channels, inner), shape, strict=True
    ))  # fmt: skip
    assert mask.sum() == n * c * s
    assert mask[:n, :c, :s].all()
