import threading

import torch
import torch._dynamo  # without it nothing is compiled, and nothing is said about it
from torch import nn

from batchnorm.surgery.borrow import borrowed


def test_code_is_compiled_again_after_two_threads_that_borrowed_at_once():
    inside, leave, compiled = threading.Event(), threading.Event(), []

    def second():
        with borrowed(nn.BatchNorm1d(2)):
            inside.set()
            leave.wait()

    def note(graph, _):
        compiled.append(graph)
        return graph.forward

    def double(x):
        return 2 * x

    thread = threading.Thread(target=second)
    with borrowed(nn.BatchNorm1d(2)):
        thread.start()
        inside.wait()
    torch.compile(double, backend=note)(torch.ones(2))
    assert not compiled  # one thread is still inside
    leave.set()
    thread.join()
    torch.compile(double, backend=note)(torch.ones(2))
    assert len(compiled) == 1
