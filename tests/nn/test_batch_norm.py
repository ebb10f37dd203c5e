"""The layers against torch.nn's: same arguments, outputs, gradients, buffers, words and errors."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_modules import module_db

import batchnorm as bn
from batchnorm.ops import ACTIVATIONS, has_native

BACKENDS = ["eager", "torch", pytest.param("native", marks=pytest.mark.skipif(
    not has_native("cpu"), reason="the CPU kernels are not built"))]  # fmt: skip

MODULES = {
    info.module_cls.__name__: info for info in module_db if info.module_cls.__name__.startswith("BatchNorm")
}

RANKS = {"BatchNorm1d": (6, 4), "BatchNorm2d": (3, 4, 5, 2), "BatchNorm3d": (2, 4, 3, 2, 2)}


def samples(info, dtype, training):
    torch.manual_seed(0)
    return info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODULES)
def test_every_sample_of_torchs_module_database_agrees(name, dtype, training, backend):
    info = MODULES[name]
    for sample in samples(info, dtype, training):
        given = sample.constructor_input
        ours = getattr(bn, name)(*given.args, **given.kwargs, dtype=dtype, backend=backend).train(training)
        theirs = info.module_cls(*given.args, **given.kwargs, dtype=dtype).train(training)
        for _ in range(3):  # several steps, so that the buffers move more than once
            x1 = sample.forward_input.args[0].detach().clone().requires_grad_()
            x2 = x1.detach().clone().requires_grad_()
            y1, y2 = ours(x1), theirs(x2)
            torch.testing.assert_close(y1, y2)
            assert y1.stride() == y2.stride()
            cotangent = torch.randn_like(y1)
            y1.backward(cotangent)
            y2.backward(cotangent)
            torch.testing.assert_close(x1.grad, x2.grad)
        for p1, p2 in zip(ours.parameters(), theirs.parameters(), strict=True):
            # sums of hundreds of products of up to 30, in another order than torch's
            close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
            torch.testing.assert_close(p1.grad, p2.grad, **close)
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
        assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", MODULES)
def test_every_error_of_torchs_module_database_is_raised(name):
    info = MODULES[name]
    for sample in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    ):
        given = sample.module_error_input
        layer = getattr(bn, name)(*given.constructor_input.args, **given.constructor_input.kwargs)
        with pytest.raises(sample.error_type, match=sample.error_regex):
            layer(*given.forward_input.args, **given.forward_input.kwargs)


@pytest.mark.parametrize("name", RANKS)
def test_words_and_classes_are_torchs(name):
    theirs = getattr(torch.nn, name)(4, momentum=None, affine=False)
    ours = getattr(bn, name)(4, momentum=None, affine=False)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, getattr(torch.nn, name))


def test_repr_shows_what_differs_from_torch():
    layer = bn.BatchNorm2d(3, activation="relu", nonfinite="skip", backend="eager")
    assert repr(layer).endswith("activation='relu', nonfinite='skip', backend='eager')")


@pytest.mark.parametrize("name", RANKS)
def test_state_dicts_load_both_ways(name):
    theirs, ours = getattr(torch.nn, name)(4), getattr(bn, name)(4)
    theirs(torch.randn(RANKS[name]) * 3 + 1)
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    again = getattr(torch.nn, name)(4)
    again.load_state_dict(ours.state_dict())
    torch.testing.assert_close(again.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_layers_copy_and_pickle():
    layer = bn.BatchNorm2d(3, activation="silu")
    layer(torch.randn(2, 3, 4, 4))
    x = torch.randn(2, 3, 4, 4)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert torch.equal(twin.eval()(x), layer.eval()(x))
        layer.train()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_residual_and_activation_are_what_plain_torch_makes_of_them(activation, training, backend):
    torch.manual_seed(0)
    ours = bn.BatchNorm2d(4, activation=activation, backend=backend, dtype=torch.float64).train(training)
    theirs = torch.nn.BatchNorm2d(4, dtype=torch.float64).train(training)
    act = {None: lambda z: z}.get(activation) or getattr(F, activation)
    tensors = [torch.randn(3, 4, 5, 2, dtype=torch.float64) for _ in range(2)]
    x1, r1 = (t.clone().requires_grad_() for t in tensors)
    x2, r2 = (t.clone().requires_grad_() for t in tensors)
    y1, y2 = ours(x1, residual=r1), act(theirs(x2) + r2)
    torch.testing.assert_close(y1, y2)
    cotangent = torch.randn_like(y1)
    for g1, g2 in zip(
        torch.autograd.grad(y1, [x1, r1, *ours.parameters()], cotangent),
        torch.autograd.grad(y2, [x2, r2, *theirs.parameters()], cotangent),
        strict=True,
    ):
        torch.testing.assert_close(g1, g2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("assign", [True, False])
def test_a_half_checkpoint_leaves_the_running_statistics_in_float32(assign, dtype):
    layer, theirs = bn.BatchNorm2d(3), torch.nn.BatchNorm2d(3).to(dtype)
    theirs(torch.randn(4, 3, 5, 5, dtype=dtype))
    layer.load_state_dict(theirs.state_dict(), assign=assign)
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert torch.equal(layer.running_mean, theirs.running_mean.float())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_running_statistics_stay_float32_in_a_half_module(dtype, backend):
    layer = bn.BatchNorm2d(3, backend=backend)
    layer(torch.randn(4, 3, 5, 5) + 2)
    before = layer.running_mean.clone()
    layer.to(dtype)
    assert layer.weight.dtype == dtype
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert torch.equal(layer.running_mean, before)  # no digits lost on the way
    assert bn.BatchNorm2d(3, dtype=dtype).running_var.dtype == torch.float32
    x = torch.randn(4, 3, 5, 5, dtype=dtype)
    assert layer(x).dtype == dtype
    assert layer.running_mean.dtype == torch.float32


def test_slow_running_statistics_do_not_stall_in_bfloat16():
    """Torch's own stick at 2.0 where the truth is 5: the step is below half a unit in the last place."""
    layer = bn.BatchNorm1d(1, momentum=1e-3).to(torch.bfloat16)
    x = torch.tensor([[3.0], [7.0]], dtype=torch.bfloat16)
    for _ in range(8000):
        layer(x)
    assert layer.running_mean.item() == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_skipped_batches_leave_no_trace(backend, momentum):
    layer = bn.BatchNorm2d(2, momentum=momentum, nonfinite="skip", backend=backend)
    good, bad = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    bad[0, 1, 0, 0] = float("inf")
    layer(good)
    before = copy.deepcopy(layer.state_dict())
    assert not layer(bad).isfinite().all()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer(good)
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nonfinite_batch_raises_by_choice_and_changes_nothing(backend):
    layer = bn.BatchNorm2d(2, nonfinite="raise", backend=backend)
    before = copy.deepcopy(layer.state_dict())
    bad = torch.randn(4, 2, 3, 3)
    bad[0, 1, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="got NaN or infinity in 1 of 2 channels"):
        layer(bad)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "torch"])
def test_a_prediction_whose_statistics_have_moved_has_no_gradient(backend):
    layer, x = bn.BatchNorm1d(3, backend=backend), torch.randn(8, 3, requires_grad=True)
    loss = layer.eval()(x).sum()
    layer.train()(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_default_a_nonfinite_batch_propagates_as_in_torch(backend):
    layer = bn.BatchNorm2d(2, backend=backend)
    layer(torch.full((4, 2, 3, 3), float("nan")))
    assert layer.running_mean.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_prediction_takes_one_sample_at_a_time(backend):
    layer = bn.BatchNorm1d(3, backend=backend)
    x = torch.randn(16, 3)
    layer(x)
    layer.eval()
    one_by_one = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(one_by_one, layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "swish"}, "activation expected one of None, relu, .*, got 'swish'"),
        ({"backend": "cuda"}, "backend expected one of auto, eager, native, torch, got 'cuda'"),
        ({"nonfinite": "drop"}, "nonfinite expected one of propagate, skip, raise, got 'drop'"),
        ({"stats": "batch"}, "stats expected a kind such as Batch\\(\\), got 'batch'"),
    ],
)
def test_unknown_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bn.BatchNorm2d(3, **arguments)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.randn(2, 4, 5), ValueError, "expected 4D input \\(got 3D input\\)"),
        (torch.randn(2, 5, 3, 3), RuntimeError, "input expected 4 channels, .* got 5 in shape"),
        (torch.ones(2, 4, 3, 3, dtype=torch.int64), NotImplementedError, "float64, got int64"),
        (torch.randn(1, 4, 1, 1), ValueError, "more than 1 value per channel .* got shape \\(1, 4, 1, 1\\)"),
        (torch.randn(2, 4, 3, 3, dtype=torch.float64), RuntimeError, "expected float64 .* got float32"),
    ],
)
def test_bad_inputs_raise_torchs_exception_in_one_line(x, error, message, backend):
    with pytest.raises(error, match=message) as caught:
        bn.BatchNorm2d(4, backend=backend)(x)
    assert "\n" not in str(caught.value)
    with pytest.raises(error):
        torch.nn.BatchNorm2d(4)(x)


def test_a_residual_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match=r"residual expected shape \(2, 3, 4, 4\) and float32"):
        bn.BatchNorm2d(3)(torch.randn(2, 3, 4, 4), residual=torch.randn(2, 3, 4, 1))


@pytest.mark.parametrize("eps", [float("nan"), float("inf"), -1.0])
def test_eps_that_is_no_stabilizer_is_refused(eps):
    for mode in (True, False):
        with pytest.raises(ValueError, match="eps"):
            bn.BatchNorm2d(3, eps=eps).train(mode)(torch.randn(2, 3, 4, 4))


def test_a_parametrized_weight_is_used_and_learns():
    layer = bn.BatchNorm2d(3)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", torch.nn.Softplus())
    x = torch.randn(4, 3, 5, 5)
    y = layer(x)
    plain = F.batch_norm(x, None, None, F.softplus(torch.ones(3)), torch.zeros(3), training=True)
    torch.testing.assert_close(y, plain)
    y.square().sum().backward()
    assert layer.parametrizations.weight.original.grad.abs().min() > 0


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "torch"])
def test_no_channels_or_no_samples_are_no_error(backend):
    for layer, shape in ((bn.BatchNorm2d(0, backend=backend), (4, 0, 2, 2)), (bn.BatchNorm1d(3), (0, 3))):
        assert layer(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("name", ["eps", "momentum"])
def test_a_number_in_words_is_refused_with_the_error_of_torchs_first_call(name):
    with pytest.raises(TypeError):
        torch.nn.BatchNorm1d(3, **{name: "1e-5"})(torch.randn(4, 3))
    with pytest.raises(TypeError, match=f"^batch_norm: {name} expected a number, got '1e-5'$"):
        bn.BatchNorm1d(3, **{name: "1e-5"})
