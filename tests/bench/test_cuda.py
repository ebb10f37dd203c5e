"""What can be said of the measuring on a GPU without one; `tests/conformance/test_gpu.py` runs it on one."""

import types

import pytest
import torch

from batchnorm.bench.cases import CASES, make_problem
from batchnorm.bench.cuda import event_clock, rotated


@pytest.mark.parametrize(("cache", "problems"), [(0, 2), (1200, 5), (10**9, 33)])
def test_a_problem_and_its_copies_are_larger_than_the_cache(monkeypatch, cache, problems):
    problem = make_problem(CASES["relu"], (10, 10, 3, 3), "float32", "contiguous", seed=1)  # 3600 bytes
    properties = types.SimpleNamespace(L2_cache_size=3 * cache)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = rotated(problem)
    assert len(found) == problems
    assert found[0] is problem
    assert len({each.x.data_ptr() for each in found}) == problems


def test_seconds_a_call_are_those_between_two_events(monkeypatch):
    diary = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            diary.append("record")

        def synchronize(self):
            diary.append("wait")

        def elapsed_time(self, end):
            return 6.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: diary.append("idle"))
    assert event_clock(lambda: diary.append("step"), 3) == pytest.approx(2e-3)
    assert diary == ["idle", "record", "step", "step", "step", "record", "wait"]
