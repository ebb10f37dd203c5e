"""What batch normalization must satisfy whatever the numbers are."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from batchnorm import reference
from batchnorm.ops import batch_norm
from tests.conformance.comparison import bounds, each_backend, each_of_ours, exact, run
from tests.strategies import Case, cases
from tests.tolerances import assert_close

contiguous = cases(dtypes=(torch.float32, torch.float64), layouts=("contiguous",), grads=("contiguous",))
some = settings(max_examples=settings().max_examples // 2)


def statistics(input, backend):
    """Mean and biased variance, read off the running statistics of one step of weight 1."""
    channels, count = input.shape[1], input.numel() // input.shape[1]
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    mean, var = torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)
    batch_norm(input, mean, var, training=True, momentum=1.0, backend=backend)
    return exact(mean), exact(var) * (count - 1) / count


@each_of_ours
@some
@given(case=contiguous)
def test_samples_in_another_order_give_the_same_outputs_in_that_order(backend, case):
    tensors = case.tensors()
    order = torch.randperm(case.shape[0], generator=torch.Generator().manual_seed(case.seed))
    permuted = dataclasses.replace(
        tensors,
        input=tensors.input[order],
        grad_output=tensors.grad_output[order],
        residual=None if tensors.residual is None else tensors.residual[order],
    )
    output, gradients = run(case, tensors, backend, training=True)
    moved_output, moved_gradients = run(case, permuted, backend, training=True)
    tolerances = bounds(case, case.tensors(), training=True)
    assert_close(moved_output, exact(output[order]), 2 * tolerances.output[order], "output")
    for name, gradient in gradients.items():
        tolerance = 2 * getattr(tolerances, f"grad_{name}")
        if name in ("input", "residual"):
            gradient, tolerance = gradient[order], tolerance[order]
        assert_close(moved_gradients[name], exact(gradient), tolerance, f"grad_{name}")


@each_backend
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
def test_a_channel_of_nans_leaves_the_others_bits_alone(backend, layout, training):
    case = Case((5, 33, 6, 7), layout=layout, residual=layout, activation="silu")
    clean, spoilt = case.tensors(), case.tensors()
    spoilt.input[:, 16] = torch.nan
    others = [channel for channel in range(33) if channel != 16]
    output, gradients = run(case, clean, backend, training=training)
    spoilt_output, spoilt_gradients = run(case, spoilt, backend, training=training)
    assert torch.isnan(spoilt_output[:, 16]).all()
    assert torch.equal(spoilt_output[:, others], output[:, others])
    for name, gradient in gradients.items():
        # each gradient is (C,) or (N, C, …)
        index = (others,) if gradient.dim() == 1 else (slice(None), others)
        assert torch.equal(spoilt_gradients[name][index], gradient[index]), name


@each_of_ours
@some
@given(case=contiguous)
def test_scaling_the_input_and_eps_with_its_square_changes_nothing(backend, case):
    # a scale of 4 is exact in binary
    plain = dataclasses.replace(case, activation=None, residual=None)
    scaled = dataclasses.replace(plain, eps=16 * case.eps)
    tensors = plain.tensors()
    output, _ = run(plain, tensors, backend, training=True)
    larger = dataclasses.replace(plain.tensors(), input=4 * tensors.input.detach())
    scaled_output, _ = run(scaled, larger, backend, training=True)
    assert_close(
        scaled_output, exact(output), 2 * bounds(plain, plain.tensors(), training=True).output, "output"
    )


@each_of_ours
@pytest.mark.parametrize("shift", [1.0, 100.0, 10_000.0])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_shifting_the_input_costs_only_the_digits_that_the_input_lost(backend, shift, layout):
    case = Case((16, 5, 9), layout=layout)
    tensors = case.tensors()
    # eighths are exact at every shift here
    tensors.input.mul_(8).round_().div_(8)
    moved = dataclasses.replace(tensors, input=tensors.input + shift)
    output, _ = run(case, tensors, backend, training=True)
    moved_output, _ = run(case, moved, backend, training=True)
    assert_close(moved_output, exact(output), 2 * bounds(case, moved, training=True).output, "output")


@each_of_ours
@some
@given(case=contiguous)
def test_statistics_of_a_batch_are_its_halves_merged(backend, case):
    # Chan, Golub & LeVeque 1983: the variance is that within the halves plus that between them
    other = dataclasses.replace(case, seed=case.seed + 1, offset=case.offset + 1)
    halves = [c.tensors().input for c in (case, other)]
    (mean_a, var_a), (mean_b, var_b) = (statistics(half, backend) for half in halves)
    whole = torch.cat(halves)
    mean, var = statistics(whole, backend)
    tolerances = bounds(case, dataclasses.replace(case.tensors(), input=whole), training=True)
    assert_close((mean_a + mean_b) / 2, mean, 2 * tolerances.batch_mean, "mean")
    between = (mean_a - mean_b) ** 2 / 4
    # what the rounded means bring in; twice their distance times their tolerance
    slack = abs(mean_a - mean_b) * tolerances.batch_mean + tolerances.batch_mean**2
    assert_close((var_a + var_b) / 2 + between, var, 2 * tolerances.batch_var + slack, "var")


@each_of_ours
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_the_gradient_is_blind_to_level_and_nearly_so_to_spread(backend, layout, eps):
    case = Case((16, 5, 9), layout=layout, eps=eps)
    tensors = case.tensors()
    _, gradients = run(case, tensors, backend, training=True)
    x, grad_output, grad_input = (exact(t) for t in (tensors.input, tensors.grad_output, gradients["input"]))
    x_hat, (_, var) = reference.batch_norm_forward(x, eps=eps), reference.batch_stats(x)
    tolerance = bounds(case, case.tensors(), training=True).grad_input
    assert_close(grad_input.sum((0, 2)), np.zeros(5), tolerance.sum((0, 2)), "sum of grad_input")
    # eps / (var + eps) of the part along x_hat is left
    left = exact(tensors.weight) / np.sqrt(var + eps) * (grad_output * x_hat).sum((0, 2)) * eps / (var + eps)
    along = (grad_input * x_hat).sum((0, 2))
    assert_close(along, left, (tolerance * abs(x_hat)).sum((0, 2)), "grad_input along x_hat")
