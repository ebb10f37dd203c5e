"""Every kind of statistics under torch.func's transforms, recorded and exported."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    functionalize,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vmap,
)

import batchnorm as bn
from tests.conformance.comparison import NATIVE, each_backend, each_of_ours
from tests.nn.test_statistics import KINDS, S, arguments_for

# torch.func.linearize traces, and torch warns of its own graph
linearize_warns = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
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


JACOBIANS = {"jacrev": jacrev, "jacfwd": jacfwd, "functionalize": lambda f: functionalize(jacrev(f))}
HESSIANS = {
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacfwd of jacrev": hessian,
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
}


@pytest.mark.parametrize("transform", [*JACOBIANS, *HESSIANS])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_derivatives_in_training_move_the_statistics_once(stats, mask, transform):
    (layer,) = layers(stats)
    twin, given, x = copy.deepcopy(layer), {**arguments_for(stats), "mask": mask}, batch()

    def output(x, layer):
        return layer(x, **given) if transform in JACOBIANS else layer(x, **given).pow(3).sum()

    found = (JACOBIANS | HESSIANS)[transform](lambda x: output(x, layer))(x)
    name = "jacobian" if transform in JACOBIANS else "hessian"
    expected = getattr(torch.autograd.functional, name)(lambda x: output(x, copy.deepcopy(twin)), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    twin(x, **given)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stats", [kind for kind in KINDS if not kind.find(S.Accumulated)], ids=str)
def test_functionalized_changes_of_statistics_are_seen(stats):
    (layer,) = layers(stats)
    twin, given, x = copy.deepcopy(layer), arguments_for(stats), batch()
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())
    found = functionalize(lambda p, b, x: functional_call(layer, (p, b), (x,), given))(parameters, buffers, x)
    torch.testing.assert_close(found, twin(x, **given), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-9)


@each_backend
@pytest.mark.parametrize("momentum", [0.1, None])
def test_every_backend_moves_its_statistics_outside_of_a_gradient(momentum, backend):
    layer = bn.BatchNorm1d(3, momentum=momentum, activation="relu", backend=backend, dtype=torch.float64)
    twin, x = copy.deepcopy(layer), batch()
    found = grad(lambda x: layer(x).pow(3).sum())(x)
    (expected,) = torch.autograd.grad(twin(x.requires_grad_()).pow(3).sum(), x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_a_tangent_passes_with_and_without_gradients(stats, training, mask):
    layer, given, x = layers(stats)[0].train(training), {**arguments_for(stats), "mask": mask}, batch()
    twin, v = copy.deepcopy(layer), batch().flip(0)
    jacobian = torch.autograd.functional.jacobian(lambda x: copy.deepcopy(layer)(x, **given), x)
    layer(x, **given)
    for enabled in (True, False):
        moved = copy.deepcopy(twin)
        with torch.set_grad_enabled(enabled), forward_ad.dual_level():
            output = moved(forward_ad.make_dual(x, v), **given)
            tangent = forward_ad.unpack_dual(output).tangent
        torch.testing.assert_close(tangent, (jacobian * v).sum((2, 3)), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(moved.state_dict(), layer.state_dict(), rtol=1e-9, atol=1e-9)


@linearize_warns
def test_a_prediction_is_linearized_without_gradients():
    layer, x, v = layers(S.Batch())[0].eval(), batch(), batch().flip(0)
    with torch.no_grad():
        _, along = linearize(layer, x)
    torch.testing.assert_close(along(v), jvp(layer, (x,), (v,))[1])


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
@pytest.mark.parametrize(
    ("stats", "backend"),
    [
        (S.Batch(), "eager"),
        pytest.param(S.Batch(), "native", marks=NATIVE.marks),
        pytest.param(S.Renorm(), "native", marks=NATIVE.marks),
    ],
    ids=str,
)
def test_a_layer_in_training_is_exported_for_any_batch_size(stats, backend):
    layer = bn.BatchNorm1d(3, stats=stats, backend=backend)
    sizes = {"input": {0: torch.export.Dim("n")}}
    program = torch.export.export(copy.deepcopy(layer), (torch.randn(6, 3),), dynamic_shapes=sizes).module()
    x = torch.randn(9, 3)
    torch.testing.assert_close(program(x), layer(x))
    torch.testing.assert_close(program.state_dict(), layer.state_dict())


# torch warns that the checks of the arguments are not in the trace
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@each_of_ours
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_trace_holds_torchs_batch_norm(training, gradients, backend):
    layer = bn.BatchNorm1d(3, activation="relu", backend=backend).train(training)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(copy.deepcopy(layer), torch.randn(6, 3))
    layer.load_state_dict(traced.state_dict())
    x = torch.randn(9, 3)
    torch.testing.assert_close(traced(x), layer(x))
    torch.testing.assert_close(traced.state_dict(), layer.state_dict())
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {kind.split("::")[0] for kind in kinds} == {"prim", "aten"}
    assert "aten::batch_norm" in kinds


RECORDED = {
    "channels last": {"channel_dim": -1},
    "cumulative": {"momentum": None},
    "skip": {"nonfinite": "skip"},
    "raise": {"nonfinite": "raise"},
    **{str(kind): {"stats": kind} for kind in (S.Ghost(2), S.Renorm(), S.Accumulated(2), S.Frozen())},
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", RECORDED)
def test_a_trace_of_any_kind_runs_where_this_package_is_not(kind, training, gradients):
    layer, x = bn.BatchNorm1d(3, **RECORDED[kind]).train(training), torch.randn(6, 3)
    twin = copy.deepcopy(layer)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(copy.deepcopy(layer), x, check_trace=False)
    kinds = {node.kind().split("::")[0] for node in traced.inlined_graph.nodes()}
    assert kinds == {"prim", "aten"}
    twin(x)  # what the trace has seen moves its statistics too
    torch.testing.assert_close(traced(x), twin(x))


def test_scripting_is_refused_with_the_way_out():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    expected = model(x := torch.randn(4, 1, 8, 8))
    bn.convert(model, fuse=True)
    with pytest.raises(TypeError, match=r"torch\.jit\.script: layer 1 .*bn\.revert.*") as refusal:
        torch.jit.script(model)
    assert "\n" not in str(refusal.value)
    scripted = torch.jit.script(bn.revert(copy.deepcopy(model))[0])
    torch.testing.assert_close(scripted(x), expected)
    assert type(model[1]) is bn.BatchNorm2d


@compiler_warns
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stats", [S.Batch(), S.Ghost(4), S.Renorm()], ids=str)
def test_stacked_networks_of_images(stats, layout, training, compiled):
    networks = [
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4, stats=stats), torch.nn.Conv2d(4, 2, 1)
        )
        for _ in range(3)
    ]
    for network in networks:
        network.train(training)
    parameters, buffers = stack_module_state(networks)
    x = torch.randn(8, 3, 6, 6).contiguous(memory_format=layout)
    stacked = vmap(lambda p, b, x: functional_call(networks[0], (p, b), (x,)), (0, 0, None))
    if compiled:
        torch.compiler.reset()
        stacked = torch.compile(stacked, backend="eager", fullgraph=True)
    found = stacked(parameters, buffers, x)
    torch.testing.assert_close(found, torch.stack([network(x) for network in networks]))
    torch.testing.assert_close(buffers["1.running_var"][2], networks[2][1].running_var)


@each_of_ours
@pytest.mark.parametrize("options", [{}, {"channel_dim": -1}, {"stats": S.Ghost(2)}], ids=str)
def test_batched_gradients_are_differentiable(options, backend):
    layer = bn.BatchNorm2d(3, backend=backend, dtype=torch.float64, **options)
    x = torch.randn(4, 3, 2, 3, dtype=torch.float64)

    def jacobian(vectorize):
        return torch.autograd.functional.jacobian(
            lambda x: copy.deepcopy(layer)(x).sum((0, 2)), x, vectorize=vectorize, create_graph=True
        )

    torch.testing.assert_close(jacobian(True), jacobian(False))
