"""What `batchnorm bench` measures: one record a case, shape and peer, and their means over shapes."""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import Any

from batchnorm.records.record import Record

__all__ = ["BenchRecord", "BenchSummary", "summarize"]


@dataclasses.dataclass(frozen=True)
class BenchRecord(Record):
    """One case of ours against one peer. Where the check failed nothing is timed: the times are NaN.

    Attributes:
        case: What is computed, as ``add+relu``.
        shape: Of the input.
        dtype: Of the input.
        layout: ``contiguous`` or ``channels_last``.
        threads: CPU threads.
        huge_pages: Whether torch allocated large tensors in huge pages (``THP_MEM_ALLOC_ENABLE=1``).
        backend: Which rung of ours computed: ``eager``, ``native`` or ``torch``.
        peer: ``torch``, ``inplace``, ``compile`` or ``copy``.
        bytes_moved: Reads and writes of the case that no implementation can save.
        seconds: Ours, a call; the median over the pairs.
        seconds_p20: Lower quantile of the same.
        seconds_p80: Upper quantile of the same.
        peer_seconds: The peer's, a call; the median over the pairs.
        ratio: The peer's seconds over ours; the median over the pairs. Above 1 ours is faster.
        ratio_p20: Lower quantile of the same.
        ratio_p80: Upper quantile of the same.
        pairs: How often the two were timed in turn; 0 where the check failed.
        error: Largest error of our results, in units of its tolerance.
        correct: Whether that is at most 1.
        device: ``cpu`` or ``cuda``; the file's environment names the card.
        memory: Most bytes that ours held at once beyond the inputs; None on a CPU and where the check failed.
        peer_memory: The peer's, likewise.
    """

    case: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    threads: int
    huge_pages: bool
    backend: str
    peer: str
    bytes_moved: int
    seconds: float
    seconds_p20: float
    seconds_p80: float
    peer_seconds: float
    ratio: float
    ratio_p20: float
    ratio_p80: float
    pairs: int
    error: float
    correct: bool
    device: str = "cpu"
    memory: float | None = None
    peer_memory: float | None = None


@dataclasses.dataclass(frozen=True)
class BenchSummary:
    """The records that differ in nothing but the shape.

    Attributes:
        ratio: Geometric mean over the shapes; NaN if the check of any failed.
        worst: The record with the smallest ratio, or the first whose check failed.
        memory: Geometric mean of our bytes over the peer's; None where none were counted.
    """

    ratio: float
    worst: BenchRecord
    memory: float | None = None


def summarize(records: Iterable[BenchRecord]) -> tuple[BenchSummary, ...]:
    """Mean over shapes of each case, layout, dtype, device, threads, huge pages and peer.

    Args:
        records: In any order; the summaries follow the order in which their first records come.

    Example:
        >>> numbers = dict.fromkeys((field.name for field in dataclasses.fields(BenchRecord)), 1)
        >>> fast, slow = (BenchRecord(**{**numbers, "shape": (n, 8), "ratio": n / 4}) for n in (16, 1))
        >>> [summary] = summarize([fast, slow])
        >>> summary.ratio, summary.worst.shape
        (1.0, (1, 8))
    """
    groups: dict[tuple[Any, ...], list[BenchRecord]] = {}
    for row in records:
        key = (row.case, row.layout, row.dtype, row.device, row.threads, row.huge_pages, row.peer)
        groups.setdefault(key, []).append(row)
    return tuple(_summary(group) for group in groups.values())


def _summary(group: list[BenchRecord]) -> BenchSummary:
    for row in group:
        if not row.correct:
            return BenchSummary(math.nan, row)
    ratio = statistics.geometric_mean(row.ratio for row in group)
    shares = [row.memory / row.peer_memory for row in group if row.memory and row.peer_memory]
    memory = statistics.geometric_mean(shares) if len(shares) == len(group) else None
    return BenchSummary(ratio, min(group, key=lambda row: row.ratio), memory)
