"""Timing on a GPU: by its own clock, past its cache, and the memory that a call takes."""

from collections.abc import Callable

import torch

from batchnorm.bench.cases import Problem

__all__ = ["event_clock", "peak_bytes", "rotated"]

_MOST_COPIES = 32


def rotated(problem: Problem) -> list[Problem]:
    """The problem and copies of it, together three times as large as the L2 cache.

    Called in turn, none finds in the cache what its last call left there.
    """
    cache = torch.cuda.get_device_properties(problem.x.device).L2_cache_size
    copies = min(_MOST_COPIES, 3 * cache // problem.x.nbytes + 1)
    return [problem, *(problem.copy() for _ in range(max(copies, 1)))]


def event_clock(step: Callable[[], object], calls: int) -> float:
    """Seconds a call between two events in the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        step()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3 / calls


def peak_bytes(step: Callable[[], object]) -> int:
    """Most bytes that torch's allocator held at once during a call, beyond those held before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = step()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before
