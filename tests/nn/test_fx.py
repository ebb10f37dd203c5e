"""Our layers in graphs of torch.fx: one step each, to every tracer."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import batchnorm as bn
from batchnorm.models import build
from tests.nn.test_statistics import KINDS, arguments_for

# copying a graph of fixed arguments copies a description of them that torch warns of itself
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")

IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(3, 3, 1), norm

    def forward(self, x, mask, given):
        return self.norm(self.convolution(x), residual=x, mask=mask, **given)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = bn.BatchNormLSTM(3, 5, bidirectional=True, max_steps=4)

    def forward(self, x):
        output, (h_n, _) = self.lstm(x)
        return output.sum() + h_n.sum()


class Doubled(bn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


def check(model, graph, *args):
    """That a graph of a copy is the model: outputs, gradients, running statistics, names."""
    expected, found = model(*args), graph(*args)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    expected.square().sum().backward()
    found.square().sum().backward()
    for ours, theirs in zip(graph.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    torch.testing.assert_close(graph.state_dict(), model.state_dict(), rtol=0, atol=0)
    graph.eval()
    assert torch.equal(copy.deepcopy(graph)(*args), model.eval()(*args))


@pytest.mark.parametrize("norm", ["batch", "torch"])
@pytest.mark.parametrize("model", ["lenet", "resnet20"])
def test_a_graph_of_a_network_is_the_network(model, norm):
    network = build(model, norm=norm)
    graph = fx.symbolic_trace(copy.deepcopy(network))
    steps = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(norms) <= set(steps)
    check(network, graph, IMAGES)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_a_layer_of_any_kind_is_one_step(stats, mask):
    block, x = Block(bn.BatchNorm1d(3, stats=stats, activation="relu")), torch.randn(6, 3, 4)
    given = {"given": arguments_for(stats), **({} if mask else {"mask": None})}
    graph = fx.symbolic_trace(copy.deepcopy(block), given)
    check(block, graph, x, torch.arange(24).view(6, 4) % 5 > 0 if mask else None, given["given"])


def test_a_recurrent_layer_is_one_step():
    network = Recurrent()
    check(network, fx.symbolic_trace(copy.deepcopy(network)), torch.randn(4, 6, 3))


def test_hooks_and_code_of_a_subclass_run_once():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), Doubled(2), bn.BatchNorm2d(2))
    network[2].register_forward_hook(lambda module, args, output: 3 * output)
    check(network, fx.symbolic_trace(copy.deepcopy(network)), IMAGES)


def test_a_converted_layer_is_one_step_until_it_is_reverted():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = vars(network[1]).keys()
    network = bn.convert(network)[0]
    check(network, fx.symbolic_trace(copy.deepcopy(network)), IMAGES)
    assert vars(bn.revert(network)[0][1]).keys() == before


# torch's own quantization warns of its successor
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_network_with_our_layers_is_quantized():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), bn.BatchNorm2d(4, activation="relu"), nn.Flatten(), nn.Linear(4 * 26 * 26, 10)
    )
    network(IMAGES)
    prepared = prepare_fx(copy.deepcopy(network).eval(), get_default_qconfig_mapping(), (IMAGES,))
    expected = network.eval()(IMAGES)
    torch.testing.assert_close(prepared(IMAGES), expected)
    quantized = convert_fx(prepared)
    assert isinstance(quantized.get_submodule("1"), bn.BatchNorm2d)
    torch.testing.assert_close(quantized(IMAGES), expected, rtol=0.1, atol=0.1)


def test_torchs_fusion_leaves_our_layers():
    from torch.fx.experimental.optimization import fuse  # warns when it is imported

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), bn.BatchNorm2d(2))
    network(IMAGES)
    fused = fuse(network.eval())
    assert isinstance(fused.get_submodule("3"), bn.BatchNorm2d)
    torch.testing.assert_close(fused(IMAGES), network(IMAGES))
