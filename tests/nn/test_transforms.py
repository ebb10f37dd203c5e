"""Every kind of statistics under torch.func's transforms and torch.compile."""

import copy

import pytest
import torch
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import batchnorm as bn
from tests.nn.test_statistics import KINDS, S, arguments_for

# torch's own compiler warns of itself
compiler_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MASK = torch.tensor([True, True, False, True, True, True])


def batch():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def layers(stats, count=1):
    torch.manual_seed(0)
    made = [bn.BatchNorm1d(3, stats=stats, activation="tanh", dtype=torch.float64) for _ in range(count)]
    for layer in made:
        torch.nn.init.normal_(layer.weight)
    return made


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_jacrev_in_training_moves_the_statistics_once(stats, mask):
    (layer,) = layers(stats)
    twin, given, x = copy.deepcopy(layer), {**arguments_for(stats), "mask": mask}, batch()
    jacobian = jacrev(lambda x: layer(x, **given))(x)
    expected = torch.autograd.functional.jacobian(lambda x: copy.deepcopy(twin)(x, **given), x)
    torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-9)
    twin(x, **given)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stats", [kind for kind in KINDS if not kind.find(S.Accumulated)], ids=str)
def test_vmap_over_models_moves_the_statistics_of_each(stats):
    models, given, x = layers(stats, 3), arguments_for(stats), batch()
    parameters, buffers = stack_module_state(models)
    (base,) = layers(stats)

    def loss(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,), given).square().sum()

    gradients = vmap(grad(loss), (0, 0, None))(parameters, buffers, x)
    for number, model in enumerate(models):
        model(x, **given).square().sum().backward()
        if stats.find(S.Frozen) is None or not stats.affine:
            torch.testing.assert_close(gradients["weight"][number], model.weight.grad, rtol=1e-9, atol=1e-9)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[name][number], buffer, rtol=1e-9, atol=1e-9)


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
