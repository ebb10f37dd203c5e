"""Every kind of statistics under torch.compile."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import batchnorm as bn
from tests.conformance.comparison import each_of_ours
from tests.nn.test_statistics import KINDS, S, arguments_for
from tests.nn.test_transforms import MASK, batch, compiler_warns, layers

each_mask = pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])


@compiler_warns
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_every_kind_compiles_without_a_graph_break(stats):
    torch.compiler.reset()
    (layer,) = layers(stats)
    twin, given = copy.deepcopy(layer), arguments_for(stats)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x1, x2 = batch().requires_grad_(), batch().requires_grad_()
        y1, y2 = layer(x1, **given), compiled(x2, **given)
        y1.square().sum().backward()
        y2.square().sum().backward()
        torch.testing.assert_close(y2, y1, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(x2.grad, x1.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(twin.state_dict(), layer.state_dict(), rtol=1e-9, atol=1e-9)


@compiler_warns
def test_a_masked_layer_compiles_without_a_graph_break():
    torch.compiler.reset()
    (layer,) = layers(S.Batch())
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch(), mask=MASK), layer(batch(), mask=MASK), rtol=1e-9, atol=1e-9)


@compiler_warns
@each_of_ours
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("stats", [S.Batch(), S.Ghost(size=4), S.Renorm()], ids=str)
def test_batch_sizes_share_compiled_code(stats, dynamic, backend):
    torch.compiler.reset()
    layer = bn.BatchNorm1d(3, stats=stats, backend=backend)
    twin, counted = copy.deepcopy(layer), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(twin, fullgraph=True, backend=counted, dynamic=dynamic)
    for size in range(4, 14):
        x = torch.randn(size, 3)
        torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(twin.state_dict(), layer.state_dict())
    # one for the first size and one for all others; ghost batches of four: one for each number of them, and
    # one where some are left; the first anew when dynamic=True has found out that eps does not vary
    assert counted.frame_count <= (6 if stats.find(S.Ghost) else 2) + bool(dynamic)


def penalty(network, x, given):
    """What a gradient penalty gives the parameters, by a path through the layer and by one around it."""
    first, norm, last = network
    hidden = first(x)
    output = last(norm(hidden, hidden, **given)).tanh()
    (slope,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [values.detach() for values in torch.autograd.grad(slope.square().sum(), wanted)]


def network_of(stats, backend, training):
    (norm,) = layers(stats)
    norm.backend = backend
    first, last = (torch.nn.Linear(3, 3, dtype=torch.float64) for _ in range(2))
    return torch.nn.ModuleList([first, norm, last]).train(training)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@each_of_ours
@each_mask
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_a_second_derivative_passes_through_a_compiled_layer(stats, training, mask, backend):
    torch.compiler.reset()
    network, x = network_of(stats, backend, training), batch().requires_grad_()
    twin, given = copy.deepcopy(network), {**arguments_for(stats), "mask": mask}
    twin[1].compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(penalty(twin, x, given), penalty(network, x, given), rtol=1e-9, atol=1e-9)


@compiler_warns
@each_of_ours
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("stats", [S.Batch(), S.Ghost(3)], ids=str)
def test_a_second_derivative_is_compiled(stats, compiler, backend):
    torch.compiler.reset()
    network, x = network_of(stats, backend, True), batch().requires_grad_()
    twin = copy.deepcopy(network)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = torch.compile(penalty, backend=compiler, fullgraph=True)(twin, x, {})
    torch.testing.assert_close(found, penalty(network, x, {}), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(twin.state_dict(), network.state_dict())
