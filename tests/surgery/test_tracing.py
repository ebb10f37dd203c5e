"""Threads: torch.fx exchanges methods of all modules while it traces."""

import threading
import warnings

import pytest
import torch
from torch import nn

from batchnorm.surgery.dataflow import trace_flow
from batchnorm.surgery.own_code import own_code


class Meanwhile(nn.Module):
    """Does something else whenever its code runs."""

    def __init__(self, act):
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(2), act

    def __deepcopy__(self, memo):
        return Meanwhile(self.act)

    def forward(self, x):
        self.act()
        return self.norm(x)


@pytest.mark.parametrize("trace", [trace_flow, own_code])
@pytest.mark.parametrize("compiled", [False, True])
def test_another_thread_predicts_meanwhile(trace, compiled):
    x, outputs = torch.randn(3, 2), []
    other = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    served = torch.compile(other, backend="eager") if compiled else other
    expected = served(x)

    def predict():
        thread = threading.Thread(target=lambda: outputs.append(served(x)))
        thread.start()
        thread.join()

    trace(Meanwhile(predict))
    assert outputs
    assert all(torch.equal(output, expected) for output in outputs)


@pytest.mark.parametrize("trace", [trace_flow, own_code])
def test_two_threads_that_trace_leave_modules_and_warnings_as_they_were(trace):
    first_is_done, second_is_inside = threading.Event(), threading.Event()

    def in_second():
        second_is_inside.set()
        first_is_done.wait(0.5)

    second = threading.Thread(target=trace, args=(Meanwhile(in_second),))

    def in_first():
        if second.ident is None:
            second.start()
            second_is_inside.wait(0.2)  # in vain: it waits for its turn

    before = nn.Module.__call__, nn.Module.__getattr__, list(warnings.filters)
    trace(Meanwhile(in_first))
    first_is_done.set()
    second.join()
    assert (nn.Module.__call__, nn.Module.__getattr__, list(warnings.filters)) == before
