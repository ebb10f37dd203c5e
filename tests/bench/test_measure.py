import functools
import gc

import pytest

from batchnorm.bench.measure import SAMPLE_SECONDS, measure_pair, wall_clock


class Lab:
    """A clock that only the callables move, and a diary of who was called."""

    def __init__(self):
        self.now = 0.0
        self.diary = []

    @property
    def stopwatch(self):
        return functools.partial(wall_clock, clock=lambda: self.now)

    def callable(self, name, seconds):
        def step():
            self.now += seconds
            self.diary.append((name, gc.isenabled()))

        return step


def test_pairs_alternate_and_ratios_are_the_peers_seconds_over_ours():
    lab = Lab()
    timings = measure_pair(lab.callable("ours", 0.25), lab.callable("peer", 0.75), 3, lab.stopwatch)
    assert timings.ours == (0.25, 0.25, 0.25)
    assert timings.peer == (0.75, 0.75, 0.75)
    assert timings.ratios == (3.0, 3.0, 3.0)
    warm_up = ["ours", "ours", "peer", "peer"]
    names = [name for name, _ in lab.diary]
    assert names == [*warm_up, "ours", "peer", "peer", "ours", "ours", "peer"]


def test_a_short_call_is_repeated_until_a_sample_is_long_enough():
    lab = Lab()
    short, long = SAMPLE_SECONDS / 3, 2 * SAMPLE_SECONDS
    timings = measure_pair(lab.callable("ours", short), lab.callable("peer", long), 1, lab.stopwatch)
    names = [name for name, _ in lab.diary]
    assert names[-5:] == ["ours"] * 4 + ["peer"]
    assert timings.ours == pytest.approx((short,))
    assert timings.peer == pytest.approx((long,))


def test_the_garbage_collector_rests_and_comes_back_even_after_an_error():
    lab = Lab()
    measure_pair(lab.callable("ours", 1.0), lab.callable("peer", 1.0), 1, lab.stopwatch)
    assert not any(enabled for _, enabled in lab.diary)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure_pair(lambda: 1 / 0, lab.callable("peer", 1.0), 1, lab.stopwatch)
    assert gc.isenabled()
