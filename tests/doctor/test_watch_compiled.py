"""A training of compiled code is watched as any other, and never ended."""

import pytest
import torch
import torch._dynamo
from torch import nn

from batchnorm.doctor import BatchNormWarning, Watch
from tests.doctor.networks import batches, trained
from tests.doctor.test_watch import run

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using `torch.compile.module.` when there are global hooks:UserWarning",
    "ignore:.*should not be instantiated:DeprecationWarning",
)


class Net(nn.Module):
    def __init__(self, inner=None):
        super().__init__()
        self.net = inner or trained()

    def forward(self, x):
        return self.net(x)


def in_place(model, **options):
    model.compile(**options)
    return model


def in_parts(model, **options):
    model.net.compile(**options)
    return model


@pytest.mark.parametrize("compiled", [torch.compile, in_place, in_parts])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_the_layers_of_compiled_code_are_seen(compiled, fullgraph):
    torch._dynamo.reset()
    graphs, found = [], []

    def note(graph, inputs):
        graphs.append(graph)
        return graph

    data = batches()
    model = compiled(Net(Net()), backend=note, fullgraph=fullgraph)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    run(model, data, 2, optimizer)
    before = len(graphs)
    with Watch(model, every=8, optimizer=optimizer, on_finding=found.append, rules=["BN037"]):
        for x, y in data:
            nn.functional.cross_entropy(model(x) + model(x), y).backward()
            optimizer.step()
    assert {finding.code for finding in found} == {"BN037"}
    assert len(found) == 3
    run(model, data, 2, optimizer)
    assert len(graphs) == before  # it runs as compiled before, and nothing of the watch was compiled


def test_several_forwards_before_a_backward_may_straddle_the_end_of_a_look():
    torch._dynamo.reset()
    model, data = torch.compile(Net(), backend="aot_eager"), batches()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    found = []
    with Watch(model, every=9, optimizer=optimizer, on_finding=found.append, rules=["BN037"]):
        for x, y in data:  # the look's last forward is the first of the sixth step
            nn.functional.cross_entropy(sum(model(x) for _ in range(3)), y).backward()
            optimizer.step()
    assert {finding.evidence["updates"] for finding in found} == {3.0}


@pytest.mark.parametrize("compiled", [torch.compile, in_place, in_parts])
def test_without_an_optimizer_it_says_that_it_does_not_watch(compiled):
    torch._dynamo.reset()
    model = compiled(Net(Net()), backend="eager")
    hooks = len(model._forward_pre_hooks)
    expected = pytest.warns(BatchNormWarning, match="Watch: optimizer expected, to see where a step of")
    with expected, Watch(model, every=8) as watch:
        run(model, batches(), 20)
    assert watch.findings == ()
    assert len(model._forward_pre_hooks) == hooks
