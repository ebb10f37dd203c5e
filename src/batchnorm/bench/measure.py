"""Timing two callables so that what else the machine does hits both alike."""

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["Stopwatch", "Timings", "measure_pair", "quantiles", "wall_clock"]

Stopwatch = Callable[[Callable[[], object], int], float]
"""Takes a callable and a number of calls; returns seconds a call."""

SAMPLE_SECONDS = 0.005  # beside which a clock that is right to a microsecond is exact


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds a call, pair by pair.

    Attributes:
        ours: The first callable's.
        peer: The second's.
    """

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """The peer's seconds over ours, pair by pair."""
        return tuple(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True))


def quantiles(values: tuple[float, ...]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile.

    Example:
        >>> quantiles((1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
        (2.0, 3.5, 5.0)
    """
    low, middle, high = np.quantile(values, (0.2, 0.5, 0.8)).tolist()
    return low, middle, high


def measure_pair(
    ours: Callable[[], object],
    peer: Callable[[], object],
    pairs: int,
    stopwatch: Stopwatch | None = None,
) -> Timings:
    """Time two callables in turn; every other pair begins with the peer.

    Both are called before, which warms them up and finds how many calls last `SAMPLE_SECONDS`.
    The garbage collector rests meanwhile.

    Args:
        ours: Called without arguments.
        peer: As ``ours``.
        pairs: How many samples of each.
        stopwatch: `wall_clock` if None.
    """
    stopwatch = stopwatch or wall_clock
    steps = (ours, peer)
    samples: tuple[list[float], list[float]] = ([], [])
    with _no_collection():
        calls = [_calls_a_sample(step, stopwatch) for step in steps]
        for number in range(pairs):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                samples[which].append(stopwatch(steps[which], calls[which]))
    return Timings(tuple(samples[0]), tuple(samples[1]))


def wall_clock(
    step: Callable[[], object], calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds a call by a clock whose seconds only grow."""
    start = clock()
    for _ in range(calls):
        step()
    return (clock() - start) / calls


def _calls_a_sample(step: Callable[[], object], stopwatch: Stopwatch) -> int:
    step()  # the first call may compile, or allocate
    calls = 1
    while calls * stopwatch(step, calls) < SAMPLE_SECONDS:
        calls *= 2
    return calls


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
