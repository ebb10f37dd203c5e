"""Averages of windows: what a layer with ``avg_pool`` returns is what it would return, then averaged."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import batchnorm as bn
from batchnorm import stats
from batchnorm.ops import batch_norm, eager
from batchnorm.ops.activations import activation_code
from tests.conformance.comparison import NATIVE, each_backend, each_of_ours, run
from tests.conformance.test_autograd import function_and_leaves
from tests.conformance.test_registration import arguments, compiler_warns, needs_compiler
from tests.interpreter import INTERPRETED
from tests.strategies import ACTIVATIONS, DTYPES, Case

pytestmark = pytest.mark.skipif(INTERPRETED, reason="Triton's kernels leave averaging to torch")

native = pytest.mark.parametrize("backend", [NATIVE])
each_mode = pytest.mark.parametrize("training", [True, False])

# shape and size of windows: short rows and long ones, widths of less than a vector and of one and a bit,
# windows that torch adds up in another way
WITHIN = [
    ((9, 1, 2, 2), 2),
    ((4, 3, 8, 8), 2),
    ((257, 5, 4, 6), 2),
    ((5, 300, 8, 8), 4),
    ((2, 70, 6, 6), 3),
    ((33, 6, 24, 24), 2),
    ((3, 5, 50, 60), 5),
    ((2, 3, 1, 7), 1),
]
# more values than a kernel takes at a time: cut at other places
CUT = [((3, 2, 56, 56), 2), ((2, 3, 60, 90), 3), ((1, 2, 256, 256), 16), ((2, 1, 6, 682), 2)]
# averaged afterwards: rests at the edges, bands too wide
AFTER = [((2, 3, 5, 7), 2), ((2, 3, 8, 7), 4), ((1, 1, 2, 1026), 2)]


def pooled(input, *args, avg_pool, **options):
    return batch_norm(input, *args, avg_pool=avg_pool, **options)


def averaged(input, *args, avg_pool, **options):
    return F.avg_pool2d(batch_norm(input, *args, **options), avg_pool)


def results(function, case, size, backend, training):
    """Output, gradients and running statistics."""
    tensors = case.tensors()
    n, c, h, w = case.shape
    grad = dataclasses.replace(case, shape=(n, c, h // size, w // size)).tensors().grad_output
    tensors = dataclasses.replace(tensors, grad_output=grad)
    output, gradients = run(
        case,
        tensors,
        backend,
        training=training,
        function=lambda *args, **options: function(*args, avg_pool=size, **options),
    )
    return output, *gradients.values(), tensors.running_mean, tensors.running_var


def compare(case, size, backend, training, exact=True):
    """Hold the two to each other, to the bit if that is ``exact``."""
    found, expected = (results(f, case, size, backend, training) for f in (pooled, averaged))
    for one, other in zip(found, expected, strict=True):
        if exact:
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other)


@native
@each_mode
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_activation_in_each_dtype_to_the_bit(backend, dtype, activation, training):
    case = Case((7, 3, 8, 8), dtype=dtype, parameters=dtype, activation=activation)
    compare(case, 2, backend, training)


@native
@each_mode
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "size"), WITHIN, ids=str)
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])  # the gradient is spread twice, and once
def test_each_shape_to_the_bit(backend, shape, size, activation, dtype, training):
    case = Case(shape, dtype=dtype, parameters=dtype, activation=activation, offset=3.0)
    compare(case, size, backend, training)


@native
@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "size"), CUT, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_large_images_are_cut_into_whole_windows(backend, shape, size, activation, dtype, training):
    compare(
        Case(shape, dtype=dtype, parameters=dtype, activation=activation),
        size,
        backend,
        training,
        exact=False,
    )


@each_backend
@each_mode
@pytest.mark.parametrize(("shape", "size"), [*AFTER, WITHIN[1]], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every_second", "transposed"])
def test_whatever_else_is_averaged_afterwards(backend, shape, size, layout, training):
    case = Case(shape, layout=layout, residual=layout, grad=layout, activation="gelu")
    compare(case, size, backend, training)


@native
@each_mode
@pytest.mark.parametrize(
    ("shape", "layout", "size", "is_within"),
    [
        ((4, 3, 8, 8), "contiguous", 2, True),
        ((4, 3, 8, 8), "every_second", 2, True),  # which is copied once
        ((1, 1, 2, 1024), "contiguous", 2, True),
        ((1, 1, 2, 1026), "contiguous", 2, False),
        ((4, 3, 8, 8), "channels_last", 2, False),
        ((4, 3, 8, 7), "contiguous", 2, False),
        ((4, 3, 7, 8), "contiguous", 2, False),
    ],
)
def test_where_the_full_size_output_is_never_there(backend, shape, layout, size, is_within, training):
    tensors = Case(shape, layout=layout, activation="relu").tensors()
    statistics = tensors.running_mean, tensors.running_var
    options = {"activation": "relu", "avg_pool": size, "backend": backend}
    y = batch_norm(tensors.input.requires_grad_(), *statistics, training=training, **options)
    assert (y.grad_fn.name() != "AvgPool2DBackward0") == is_within


@native
def test_any_number_of_threads_gives_the_same_bits(backend):
    case = Case((257, 12, 24, 24), activation="sigmoid")
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(pooled, case, 2, backend, True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@each_of_ours
@each_mode
@pytest.mark.parametrize("residual", [False, True])
def test_derivatives_to_second_order(backend, training, residual):
    function, leaves = function_and_leaves("silu", training, backend, (3, 2, 4, 4), avg_pool=2)
    if not residual:  # as kernels that average take none
        *leaves, _ = leaves
    checked = function if residual else lambda *leaves: function(*leaves, None)
    assert gradcheck(checked, leaves, check_forward_ad=True)
    assert gradgradcheck(checked, leaves)


@pytest.mark.parametrize(
    "name",
    [
        "batch_norm_forward",
        "batch_norm_forward_update",
        "batch_norm_backward",
        "normalize",
        "normalize_backward",
    ],
)
def test_opcheck(name):
    case = Case((2, 3, 4, 6), activation="silu")
    given = [*arguments(case, name), 2]
    if name.endswith("backward"):
        given[0] = given[0][:, :, :2, :3].contiguous()
    opcheck(getattr(torch.ops.batchnorm, name).default, tuple(given))


def test_the_kernels_mean_what_the_plain_ones_do():
    case = Case((2, 3, 4, 6), activation="tanh", dtype=torch.float64, parameters=torch.float64)
    tensors, code = case.tensors(), activation_code("tanh")
    affine = tensors.weight, tensors.bias, tensors.residual
    grad = tensors.grad_output[:, :, :2, :3].contiguous()
    ops = torch.ops.batchnorm
    statistics = eager.moments(tensors.input)
    for name, args in (
        ("batch_norm_forward", (tensors.input, *affine, 1e-5, code, 2)),
        ("normalize", (tensors.input, *statistics, *affine, 1e-5, code, 2)),
        ("batch_norm_backward", (grad, tensors.input, *affine, *statistics, 1e-5, code, 2)),
        ("normalize_backward", (grad, tensors.input, *statistics, *affine, 1e-5, code, 2)),
    ):
        torch.testing.assert_close(getattr(ops, name)(*args), getattr(eager, name)(*args))


@native
@each_mode
@pytest.mark.parametrize("size", [2, 3, 5, 7, 11, 41])  # floor(41 · (1 / 41)) is 0 in float32
def test_a_gradient_that_is_followed_is_the_same(backend, size, training):
    x = torch.randn(2, 2, 2 * size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    statistics = torch.zeros(2), torch.ones(2)
    y = batch_norm(x, *statistics, training=training, activation="silu", avg_pool=size, backend=backend)
    total = (y * torch.arange(1.0, y.numel() + 1).view_as(y)).sum()
    (plain,) = torch.autograd.grad(total, x, retain_graph=True)
    (followed,) = torch.autograd.grad(total, x, create_graph=True)
    torch.testing.assert_close(followed, plain)


@needs_compiler
@compiler_warns
@each_of_ours
@each_mode
def test_compiled_without_a_graph_break(backend, training):
    torch.compiler.reset()
    layer = bn.BatchNorm2d(3, activation="relu", avg_pool=2, backend=backend).train(training)
    compiled = torch.compile(layer, fullgraph=True)
    for shape in ((4, 3, 6, 8), (5, 3, 6, 8), (5, 3, 7, 8)):
        x, z = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "xz")
        y, expected = compiled(x), layer(z)
        torch.testing.assert_close(y, expected)
        y.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(x.grad, z.grad)


@each_of_ours
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        stats.Batch(),
        stats.Ghost(2),
        stats.Renorm(r_max=3, d_max=5),
        stats.Frozen(),
        stats.Domains(2),
        stats.Accumulated(2),
    ],
    ids=lambda kind: type(kind).__name__,
)
def test_every_kind_of_statistics(kind, masked, backend):
    x = torch.randn(4, 3, 6, 6, requires_grad=True)
    given = {"mask": x[:, 0] > -0.5} if masked else {}
    if isinstance(kind, stats.Domains):
        given["domain"] = 1
    layers = [bn.BatchNorm2d(3, activation="relu", avg_pool=k, stats=kind, backend=backend) for k in (2, 1)]
    outputs = [layers[0](x, **given), F.avg_pool2d(layers[1](x, **given), 2)]
    assert torch.equal(*outputs)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in outputs))
    assert all(torch.equal(a, b) for a, b in zip(*(layer.buffers() for layer in layers), strict=True))


@each_backend
def test_a_lean_network_has_the_same_gradients(backend):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        bn.BatchNorm2d(3, activation="silu", avg_pool=2, backend=backend),
        torch.nn.Conv2d(3, 2, 3),
    )
    x, gradients = torch.randn(4, 1, 12, 12), []
    for _ in range(2):
        gradients.append(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))
        bn.lean(model)
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("avg_pool", [0, -2, 2.0, "2", None, True, (2, 2)])
def test_what_is_no_size_is_refused(avg_pool):
    for make in (bn.BatchNorm2d, bn.BatchNorm1d):
        with pytest.raises(ValueError, match=r"^batch_norm: avg_pool expected an int of at least 1, got "):
            make(3, avg_pool=avg_pool)


@pytest.mark.parametrize(
    "make", [bn.BatchNorm1d, bn.BatchNorm3d, lambda *a, **k: bn.BatchNorm2d(*a, channel_dim=-1, **k)]
)
def test_a_layer_of_other_ranks_or_channels_has_none(make):
    with pytest.raises(ValueError, match="avg_pool expected 1 but for BatchNorm2d with channel_dim=1, got 2"):
        make(3, avg_pool=2)


@each_backend
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 8), (4, 3, 1, 8), (4, 3, 8, 1), (4, 3, 4, 4, 4)], ids=str)
def test_an_input_without_windows_is_refused_before_anything_moves(shape, backend):
    mean, var, batches = torch.zeros(3), torch.ones(3), torch.tensor(0)
    options = {"num_batches_tracked": batches, "training": True, "avg_pool": 2, "backend": backend}
    with pytest.raises(
        ValueError, match=r"input expected shape \(N, C, H, W\) with H and W of at least avg_pool=2, got"
    ):
        batch_norm(torch.randn(shape), mean, var, **options)
    assert (mean.any(), (var != 1).any(), batches) == (False, False, 0)


@native
def test_the_operators_refuse_what_they_do_not_average(backend):
    ops, x = torch.ops.batchnorm, torch.randn(4, 3, 6, 6)
    rest = None, None, None, 1e-5, 0
    for input, size in (
        (x, 4),
        (x, 0),
        (x, -2),
        (x.to(memory_format=torch.channels_last), 2),
        (x[0], 2),
        (torch.randn(1, 1, 2, 1026), 2),
    ):
        with pytest.raises(
            RuntimeError, match="avg_pool expected 1 or a size of whole windows of contiguous"
        ):
            ops.batch_norm_forward(input, *rest, size)
    with pytest.raises(RuntimeError, match="avg_pool expected 1 with a residual, got 2"):
        ops.batch_norm_forward(x, None, None, x, 1e-5, 0, 2)
    with pytest.raises(RuntimeError, match=r"grad_output expected shape \(4, 3, 3, 3\), got \(4, 3, 6, 6\)"):
        ops.batch_norm_backward(x, x, None, None, None, *eager.moments(x), 1e-5, 0, 2)


def test_it_shows_where_there_is_one():
    assert "avg_pool=2" in repr(bn.BatchNorm2d(3, avg_pool=2))
    assert "avg_pool" not in repr(bn.BatchNorm2d(3))
