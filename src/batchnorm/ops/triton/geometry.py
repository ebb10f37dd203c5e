"""How a tensor is cut into programs and tiles; from its shape alone, so that results are too.

Every layout is seen as rows of C channels of S values, the last index fastest:

    contiguous      N rows        (N, C, S)    S = prod(spatial)
    channels_last   N · S rows    (N · S, C, 1)

so one kernel serves both. A tile is (BLOCK_N, BLOCK_C, BLOCK_S) of it. A program owns BLOCK_C channels
and `tiles` tiles after each other; where the channels are few, several programs share them and their
sums are merged later.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

__all__ = ["Cut", "Run", "cut", "runs"]

TILE = 4096
"""Values of a tile: 16 a thread."""
VALUES_A_THREAD = 16
STRETCH = 256
"""Neighbouring values that a tile reads at least, where the tensor has them: whole lines of memory."""
LONGEST = 1024
"""Neighbouring values of a channel in a tile at most, unless there are too few rows to fill it."""
PROGRAMS = 512
"""About four for each multiprocessor of the largest chips, which hides most of what memory waits for."""
LONGEST_SPLIT = 16
"""Tiles of a program at most. A lane adds up so many values before sums are merged in float64, and the
first tile's mean, which the program subtracts from all of them, is never far off for most of them."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive parts of equal size, which one launch computes.

    Attributes:
        first_sample: Where the first part starts.
        first_part: Its number.
        parts: How many.
        size: Samples of each; at least 1.
    """

    first_sample: int
    first_part: int
    parts: int
    size: int


def runs(sizes: Sequence[int]) -> Iterator[Run]:
    """The runs of parts that are not empty: one, or two with a ragged last part, in ordinary use.

    Example:
        >>> [(run.first_sample, run.first_part, run.parts, run.size) for run in runs([32, 32, 0, 7])]
        [(0, 0, 2, 32), (64, 3, 1, 7)]
    """
    sample = part = 0
    for size, group in itertools.groupby(sizes):
        parts = len(list(group))
        if size:
            yield Run(sample, part, parts, size)
        sample, part = sample + parts * size, part + parts


@dataclasses.dataclass(frozen=True)
class Cut:
    """Of the rows of one part.

    Attributes:
        block_n: Rows of a tile; this and the next two are powers of 2.
        block_c: Channels of a tile.
        block_s: Values side by side of each channel in a tile.
        tiles: Tiles of a program.
        splits: Programs that share the same channels.
        channel_blocks: Groups of ``block_c`` channels.
        warps: Of 32 threads, for a program.
        wide: Whether offsets within a tile need 64 bits.
    """

    block_n: int
    block_c: int
    block_s: int
    tiles: int
    splits: int
    channel_blocks: int
    warps: int
    wide: bool


@functools.lru_cache(maxsize=4096)
def cut(rows: int, channels: int, inner: int) -> Cut:
    """Cut ``rows`` rows of ``channels`` channels of ``inner`` values; each at least 1.

    Example:
        >>> cut(128, 64, 56 * 56).splits, cut(128 * 56 * 56, 64, 1).splits
        (8, 483)
    """
    fills = TILE // _power(rows)
    block_s = _block(inner, max(STRETCH, fills), max(LONGEST, fills))
    most = max(STRETCH // block_s, 1)
    block_c = _block(channels, min(64, most), most)
    block_n = min(_power(rows), TILE // (block_c * block_s))
    channel_blocks = _ceil(channels, block_c)
    tiles = _ceil(rows, block_n) * _ceil(inner, block_s)
    splits = min(tiles, max(_ceil(tiles, LONGEST_SPLIT), _ceil(PROGRAMS, channel_blocks)))
    each = _ceil(tiles, splits)
    values = block_n * block_c * block_s
    return Cut(
        block_n,
        block_c,
        block_s,
        tiles=each,
        splits=_ceil(tiles, each),
        channel_blocks=channel_blocks,
        warps=max(1, min(8, values // (32 * VALUES_A_THREAD))),
        wide=block_n * channels * inner >= 2**31,
    )


def _block(size: int, least: int, most: int) -> int:
    """The power of 2 that leaves the fewest lanes idle; the larger of two equals."""
    if size <= least:
        return _power(size)
    blocks = [1 << k for k in range(least.bit_length() - 1, most.bit_length())]
    return min(reversed(blocks), key=lambda block: _ceil(size, block) * block)


def _ceil(size: int, block: int) -> int:
    return -(-size // block)


def _power(size: int) -> int:
    """The smallest power of 2 that is not smaller."""
    return 1 << (size - 1).bit_length()
