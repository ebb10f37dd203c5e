"""The running statistics as numbers, and what keeps them as they are."""

import numpy as np
import pytest
import torch

from batchnorm import reference
from batchnorm.ops import batch_norm
from tests.conformance.comparison import bounds, each_backend, exact
from tests.strategies import DTYPES, Case
from tests.tolerances import assert_close, running_tolerance


@each_backend
@pytest.mark.parametrize("momentum", [0.1, 0.9, 1.0, 0.0, None])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_after_several_steps(backend, momentum, dtype, layout):
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    running_mean, running_var = torch.zeros(5, dtype=accumulator), torch.ones(5, dtype=accumulator)
    num_batches_tracked = torch.zeros((), dtype=torch.int64)
    expected = (np.zeros(5), np.ones(5), 0)
    mean_tolerance = var_tolerance = np.zeros(5)
    for step in range(4):
        # batches of different size, level and spread
        case = Case(
            (3 + step, 5, 7), dtype=dtype, layout=layout, offset=3.0 * step, spread=2.0**step, seed=step
        )
        tensors = case.tensors()
        batch_norm(
            tensors.input,
            running_mean,
            running_var,
            training=True,
            momentum=momentum,
            num_batches_tracked=num_batches_tracked,
            backend=backend,
        )
        mean, var = reference.batch_stats(exact(tensors.input))
        batch, unbiased = bounds(case, tensors, training=True), case.count / (case.count - 1)
        weight = 1 / (step + 1) if momentum is None else momentum
        mean_tolerance = running_tolerance(
            mean_tolerance, expected[0], batch.batch_mean, mean, weight, accumulator
        )
        var_tolerance = running_tolerance(
            var_tolerance, expected[1], batch.batch_var * unbiased, var * unbiased, weight, accumulator
        )
        expected = reference.update_running_stats(*expected, mean, var, case.count, momentum)
        assert_close(running_mean, expected[0], mean_tolerance, f"running_mean after step {step}")
        assert_close(running_var, expected[1], var_tolerance, f"running_var after step {step}")
        assert num_batches_tracked.item() == expected[2] == step + 1


def state():
    return torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor(7)


def step(input, running, backend, **options):
    mean, var, batches = running
    return batch_norm(
        input, mean, var, training=True, num_batches_tracked=batches, backend=backend, **options
    )


def batch_with(value):
    """Two channels, the second of which holds ``value`` once."""
    input = torch.arange(12.0).reshape(3, 2, 2)
    input[1, 1, 0] = value
    return input


nonfinite_values = pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])


@each_backend
@nonfinite_values
def test_a_nonfinite_batch_propagates_in_its_own_channel(backend, value):
    mean, var, batches = running = state()
    output = step(batch_with(value), running, backend)
    assert torch.isfinite(output[:, 0]).all()
    assert not torch.isfinite(output[:, 1]).all()
    # the first channel holds 0, 1, 4, 5, 8, 9
    torch.testing.assert_close(mean[0], torch.tensor(0.9 * 1 + 0.1 * 4.5))
    assert not torch.isfinite(mean[1])
    assert not torch.isfinite(var[1])
    assert batches.item() == 8


@each_backend
@nonfinite_values
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_nonfinite_batch_is_skipped_whole(backend, value, momentum):
    running = state()
    output = step(batch_with(value), running, backend, nonfinite="skip", momentum=momentum)
    assert not torch.isfinite(output[:, 1]).all()
    for now, before in zip(running, state(), strict=True):
        assert torch.equal(now, before)


@each_backend
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_finite_batch_is_never_skipped(backend, momentum):
    skipping, plain = state(), state()
    step(batch_with(1.0), skipping, backend, nonfinite="skip", momentum=momentum)
    step(batch_with(1.0), plain, backend, momentum=momentum)
    for now, expected in zip(skipping, plain, strict=True):
        torch.testing.assert_close(now, expected)


@each_backend
@nonfinite_values
def test_a_nonfinite_batch_raises_before_anything_is_changed(backend, value):
    running = state()
    with pytest.raises(
        FloatingPointError,
        match=r"^batch_norm: input expected finite statistics, got NaN or infinity in 1 of 2 channels",
    ):
        step(batch_with(value), running, backend, nonfinite="raise")
    for now, before in zip(running, state(), strict=True):
        assert torch.equal(now, before)


@each_backend
def test_prediction_changes_nothing(backend):
    mean, var, batches = running = state()
    batch_norm(batch_with(1.0), mean, var, training=False, num_batches_tracked=batches, backend=backend)
    for now, before in zip(running, state(), strict=True):
        assert torch.equal(now, before)


@each_backend
def test_training_needs_no_running_statistics(backend):
    output = batch_norm(batch_with(1.0), None, None, training=True, backend=backend)
    torch.testing.assert_close(output, step(batch_with(1.0), state(), backend))


@each_backend
@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_is_counted_and_changes_nothing_else(backend, momentum, nonfinite):
    mean, var, batches = running = state()
    input = torch.empty(0, 2, 3, requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    output = batch_norm(
        input,
        mean,
        var,
        weight,
        training=True,
        momentum=momentum,
        num_batches_tracked=batches,
        activation="relu",
        nonfinite=nonfinite,
        backend=backend,
    )
    assert output.shape == input.shape
    grad_input, grad_weight = torch.autograd.grad(output.sum(), [input, weight])
    assert grad_input.shape == input.shape
    assert grad_weight.tolist() == [0, 0]
    assert running[2].item() == 8
    for now, before in zip(running[:2], state()[:2], strict=True):
        assert torch.equal(now, before)


def run_in(place, backend, training, dtype=torch.float32, parameters=torch.float32):
    """Results of a step whose (C,) tensors lie where ``place`` puts them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 5, generator=generator).to(dtype).requires_grad_()
    mean, var, weight, bias = (
        place((torch.rand(3, generator=generator) + 0.5).to(parameters)) for _ in "mvwb"
    )
    leaves = x, weight.requires_grad_(), bias.requires_grad_()
    y = batch_norm(x, mean, var, weight, bias, training, backend=backend)
    return y, *torch.autograd.grad(y.square().sum(), leaves), mean, var


PLACES = {
    "every second": lambda v: torch.stack([v, v.new_full(v.shape, torch.nan)], 1).flatten()[::2],
    "a column": lambda v: torch.stack([v, v.new_full(v.shape, torch.nan)], 1)[:, 0],
}


@each_backend
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_parameters_and_statistics_may_lie_apart(place, training, backend):
    found, expected = (run_in(where, backend, training) for where in (PLACES[place], torch.clone))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@each_backend
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_all_of_a_half_type(dtype, training, backend):
    found = run_in(torch.clone, backend, training, dtype, dtype)
    expected = run_in(lambda v: v.to(dtype).float(), backend, training, dtype)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(dtype), rtol=0.02, atol=0.02)
