"""The pieces that other statistics are built from: put together again they are batch normalization."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.ops import parts
from batchnorm.ops.activations import activation_code
from tests.conformance.comparison import check, each_of_ours
from tests.strategies import DTYPES, LAYOUTS, Case, cases

OPS = torch.ops.batchnorm


def kernels(backend):
    return parts if backend == "eager" else OPS


class InPieces(torch.autograd.Function):
    """Training with one part, the whole batch."""

    @staticmethod
    def forward(ctx, input, weight, bias, residual, eps, code, backend):
        ops, sizes = kernels(backend), [len(input)]
        count, mean, m2 = ops.moments(input, sizes)
        invstd = (m2 / count[:, None] + eps).rsqrt()
        scale = invstd if weight is None else invstd * weight
        shift = torch.zeros_like(mean) if bias is None else bias.to(mean)[None]
        ctx.save_for_backward(input, weight, bias, residual, count, mean, invstd, scale, shift)
        ctx.settings = ops, sizes, code
        return ops.forward_apply(input, mean, scale, shift, residual, sizes, code)

    @staticmethod
    def backward(ctx, grad_output):
        input, weight, bias, residual, count, mean, invstd, scale, shift = ctx.saved_tensors
        ops, sizes, code = ctx.settings
        z = mean, scale, shift
        first, second, grad_residual = ops.backward_reduce(grad_output, input, *z, residual, sizes, code)
        slope, offset = -scale * invstd**2 * second / count[:, None], -scale * first / count[:, None]
        grad_input = ops.backward_apply(grad_output, input, *z, slope, offset, residual, sizes, code)
        return (
            grad_input,
            None if weight is None else (second * invstd).sum(0).to(weight.dtype),
            None if bias is None else first.sum(0).to(bias.dtype),
            None if residual is None else grad_residual if code else grad_output,
            None,
            None,
            None,
        )


def in_pieces(
    input, running_mean, running_var, weight, bias, training, *, eps, activation, residual, backend
):
    assert training
    return InPieces.apply(input, weight, bias, residual, eps, activation_code(activation), backend)


@each_of_ours
@given(case=cases())
def test_one_part_is_batch_normalization(backend, case):
    check(case, backend, training=True, function=in_pieces)


@each_of_ours
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(sum),
    spatial=st.sampled_from([(), (3,), (5, 70)]),
)
def test_each_part_is_computed_as_if_it_were_alone(backend, layout, dtype, sizes, spatial):
    case = Case((sum(sizes), 3, *spatial), dtype, layout, offset=2.0, residual=layout, activation="tanh")
    tensors, ops, code = case.tensors(), kernels(backend), activation_code("tanh")
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(len(sizes), 3, generator=generator).to(case.accumulator) for _ in range(5)]
    whole = results(ops, tensors, rows, sizes, code)
    ends = list(itertools.accumulate(sizes))
    for part, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        row, samples = slice(part, part + 1), slice(end - size, end)
        if size == 0:
            assert not any(values[row].any() for values in (*whole[0], *whole[1][:2]))
            continue
        few = [getattr(tensors, name)[samples] for name in ("input", "residual", "grad_output")]
        alone = results(
            ops, type(tensors)(few[0], None, None, *few[1:], None, None), [r[row] for r in rows], [size], code
        )
        for values, expected in zip((*whole[0], *whole[1][:2]), (*alone[0], *alone[1][:2]), strict=True):
            torch.testing.assert_close(values[row], expected, rtol=1e-12, atol=1e-12)
        for values, expected in zip((whole[1][2], *whole[2:]), (alone[1][2], *alone[2:]), strict=True):
            assert torch.equal(values[samples], expected)


def results(ops, tensors, rows, sizes, code):
    """Of all four pieces, with arbitrary coefficients."""
    x, residual, grad, z = tensors.input, tensors.residual, tensors.grad_output, rows[:3]
    return (
        ops.moments(x, sizes),
        ops.backward_reduce(grad, x, *z, residual, sizes, code),
        ops.forward_apply(x, *z, residual, sizes, code),
        ops.backward_apply(grad, x, *rows, residual, sizes, code),
    )


@each_of_ours
def test_a_large_mean_costs_no_digits_of_the_variance(backend):
    x = torch.randn(64, 2, 33) + 1e4
    _, mean, m2 = kernels(backend).moments(x, [32, 32])
    for part, values in enumerate(x.double().split(32)):
        torch.testing.assert_close(mean[part], values.mean((0, 2)), rtol=1e-12, atol=0)
        torch.testing.assert_close(m2[part], values.var((0, 2), correction=0) * 32 * 33, rtol=1e-5, atol=0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match="4 samples"):
        OPS.moments(torch.ones(4, 3), [3])
