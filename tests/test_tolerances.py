"""The bounds pass every sound way to sum and fail the unsound ones; the message of `assert_close`."""

import numpy as np
import pytest
import torch

from batchnorm.reference import (
    ACTIVATIONS,
    activate,
    activation_derivative,
    batch_norm_backward,
    batch_norm_forward,
    batch_stats,
)
from tests.tolerances import CURVES, Tolerances, assert_close

EPS = 1e-5


# Ways to sum float32 values in float32.


def pairwise(values):
    return np.add.reduce(values, dtype=np.float32)


def sequential(values):
    return np.cumsum(values, dtype=np.float32)[-1]


def in_blocks(values):
    """Sums of 64 values one after the other in float32, merged in float64: a kernel's way."""
    sums = [np.cumsum(block, dtype=np.float32)[-1] for block in np.array_split(values, values.size // 64 + 1)]
    return np.float64(np.sum(np.asarray(sums, np.float64)))


# Ways to take a mean and a variance in float32.


def two_pass(x, total):
    mean = np.float32(total(x) / x.size)
    return mean, np.float32(total((x - mean) ** 2) / x.size)


def blocks_merged_by_chan(x):
    """Two-pass statistics of blocks of 256, merged in float64 (Chan, Golub & LeVeque 1983)."""
    count, mean, squares = 0, 0.0, 0.0
    for block in np.array_split(x, x.size // 256 + 1):
        block_mean, block_var = (float(v) for v in two_pass(block, sequential))
        shift = block_mean - mean
        squares += block_var * block.size + shift**2 * count * block.size / (count + block.size)
        count += block.size
        mean += shift * block.size / count
    return np.float32(mean), np.float32(squares / count)


def welford(x):
    mean, squares = np.float32(0), np.float32(0)
    for count, value in enumerate(x, start=1):
        shift = value - mean
        mean += shift / np.float32(count)
        squares += shift * (value - mean)
    return mean, squares / np.float32(x.size)


def one_pass(x):
    mean = np.float32(pairwise(x) / x.size)
    return mean, np.float32(max(pairwise(x * x) / x.size - mean * mean, 0))


def worst_ratio(statistics, total, x, grad_output):
    """Error over tolerance of a float32 batch norm of one channel, the worst of all results."""
    x, grad_output = x.astype(np.float32), grad_output.astype(np.float32)
    with np.errstate(all="ignore"):
        mean, var = statistics(x)
        invstd = np.float32(1 / np.sqrt(var + np.float32(EPS)))
        x_hat = (x - mean) * invstd
        grad_bias, grad_weight = total(grad_output), total(grad_output * x_hat)
        through = np.float32(grad_bias / x.size) + x_hat * np.float32(grad_weight / x.size)
        grad_input = invstd * (grad_output - through)

    column, grads = x[:, None].astype(np.float64), grad_output[:, None].astype(np.float64)
    exact_mean, exact_var = batch_stats(column)
    exact = batch_norm_backward(grads, column, eps=EPS)
    bounds = Tolerances(column, exact_mean, exact_var, EPS, grad_output=grads)
    return max(
        np.max(np.abs(np.float64(actual) - expected.squeeze()) / bound.squeeze())
        for actual, expected, bound in [
            (mean, exact_mean, bounds.batch_mean),
            (var, exact_var, bounds.batch_var),
            (x_hat, batch_norm_forward(column, eps=EPS), bounds.output),
            (grad_input, exact.grad_input, bounds.grad_input),
            (grad_weight, exact.grad_weight, bounds.grad_weight),
            (grad_bias, exact.grad_bias, bounds.grad_bias),
        ]
    )


SOUND = {
    "two-pass, pairwise": (lambda x: two_pass(x, pairwise), pairwise),
    "two-pass, in blocks": (lambda x: two_pass(x, in_blocks), in_blocks),
    "blocks merged by Chan": (blocks_merged_by_chan, in_blocks),
}


def channel(count, offset, spread, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(offset, spread, count), rng.normal(0.5, 1, count)


@pytest.mark.parametrize("scheme", SOUND)
@pytest.mark.parametrize("count", [2, 17, 1000, 100_000])
@pytest.mark.parametrize(
    ("offset", "spread"), [(0, 1), (1e4, 1), (-3e3, 1000), (7, 0), (0, 1e-3), (1e7, 1e3)]
)
def test_sound_schemes_pass_with_room_to_spare(scheme, count, offset, spread):
    ratios = [worst_ratio(*SOUND[scheme], *channel(count, offset, spread, seed)) for seed in range(3)]
    assert max(ratios) < 0.5


@pytest.mark.parametrize("count", [2, 17, 100])
@pytest.mark.parametrize(("offset", "spread"), [(0, 1), (1e4, 1)])
def test_a_short_welford_recurrence_passes(count, offset, spread):
    assert worst_ratio(welford, pairwise, *channel(count, offset, spread)) < 1


@pytest.mark.parametrize("count", [100, 10_000])
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_the_one_pass_variance_fails(count, offset):
    assert worst_ratio(one_pass, pairwise, *channel(count, offset, 1.0)) > 10


@pytest.mark.parametrize("offset", [1.0, 1e4])
def test_a_long_sequential_float32_sum_fails(offset):
    sums = (lambda x: two_pass(x, sequential), sequential)
    assert worst_ratio(*sums, *channel(100_000, offset, 1.0)) > 2


class TestWrongFormulasFail:
    x = np.random.default_rng(0).normal(1.0, 2.0, (8, 3, 5))
    grad_output = np.random.default_rng(1).normal(size=x.shape)
    mean, var = batch_stats(x)
    bounds = Tolerances(x, mean, var, EPS, grad_output=grad_output, activation="tanh")
    y = batch_norm_forward(x, eps=EPS, activation="tanh")
    grads = batch_norm_backward(grad_output, x, eps=EPS, activation="tanh")

    def test_unbiased_variance_in_the_output(self):
        count = self.x.size // 3
        z = batch_norm_forward(self.x, eps=EPS) * np.sqrt((count - 1) / count)
        with pytest.raises(AssertionError):
            assert_close(np.tanh(z), self.y, self.bounds.output, "output")

    def test_eps_ten_times_too_large(self):
        y = batch_norm_forward(self.x, eps=10 * EPS, activation="tanh")
        with pytest.raises(AssertionError):
            assert_close(y, self.y, self.bounds.output, "output")

    def test_statistics_held_constant_in_the_backward(self):
        grad_z = self.grad_output * (1 - self.y**2)
        held = grad_z / np.sqrt(self.var + EPS)[:, None]
        with pytest.raises(AssertionError):
            assert_close(held, self.grads.grad_input, self.bounds.grad_input, "grad_input")

    def test_derivative_taken_at_the_output(self):
        grad_z = self.grad_output * (1 - np.tanh(self.y) ** 2)
        with pytest.raises(AssertionError):
            assert_close(grad_z, self.grads.grad_residual, self.bounds.grad_residual, "grad_residual")

    def test_results_rounded_to_half_where_float32_is_due(self):
        half = torch.tensor(self.y).half()
        with pytest.raises(AssertionError):
            assert_close(half, self.y, self.bounds.output, "output")
        bounds = Tolerances(self.x, self.mean, self.var, EPS, activation="tanh", stored=torch.float16)
        assert_close(half, self.y, bounds.output, "output")


class TestCurves:
    z = np.linspace(-30, 30, 600_001)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_steepest_slope_is_a_tight_upper_bound(self, activation):
        steepest = np.abs(np.diff(activate(self.z, activation)) / np.diff(self.z)).max()
        assert steepest == pytest.approx(CURVES[activation].steepest, rel=1e-3)
        assert steepest <= CURVES[activation].steepest * (1 + 1e-9)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_bend_and_jumps_account_for_every_change_of_slope(self, activation):
        curve = CURVES[activation]
        slopes = activation_derivative(self.z, activation)
        changes, left = np.abs(np.diff(slopes)), self.z[:-1]
        jumps = np.zeros(changes.shape, bool)
        for corner in curve.corners:
            jumps |= (left - 1e-6 <= corner) & (corner <= left + 1e-4 + 1e-6)
        bend = (changes[~jumps] / 1e-4).max()
        assert bend == pytest.approx(curve.bend, rel=1e-3, abs=1e-9)
        assert bend <= curve.bend * (1 + 1e-6) + 1e-9
        if curve.corners:
            assert changes[jumps].max() == pytest.approx(curve.jump, abs=1e-4)


def test_a_value_on_a_corner_may_take_either_slope_and_its_sums_too():
    x = np.array([[-1.0], [0.0], [1.0]])  # the middle one is on relu's corner
    grad_output = np.array([[2.0], [3.0], [5.0]])
    bounds = Tolerances(x, *batch_stats(x), EPS, activation="relu", grad_output=grad_output)
    assert bounds.grad_residual.ravel() == pytest.approx([0, 3, 0], abs=1e-4)
    assert bounds.grad_bias == pytest.approx([3], abs=1e-4)


class TestAssertClose:
    def test_passes_within_tolerance(self):
        assert_close(torch.tensor([1.0, 2.0]), [1.0, 2.1], [0.0, 0.2], "values")

    def test_names_the_worst_element(self):
        with pytest.raises(AssertionError) as failure:
            assert_close(np.array([[1.0, 2.0], [3.0, 4.5]]), [[1.0, 2.25], [3.0, 4.0]], 0.125, "output")
        assert str(failure.value) == (
            "output: 2 of 4 elements out of tolerance; worst at (1, 1): expected 4.0, "
            "got 4.5, 4 times the tolerance 0.125"
        )

    def test_nan_is_wrong_and_worst(self):
        with pytest.raises(AssertionError, match=r"1 of 2 .* worst at \(0,\): .* got nan, inf times"):
            assert_close([float("nan"), 1.0], [1.0, 1.0], 1e9, "output")

    def test_shapes_do_not_broadcast(self):
        with pytest.raises(AssertionError, match=r"output: shape expected \(2, 1\), got \(2,\)"):
            assert_close(np.zeros(2), np.zeros((2, 1)), 1.0, "output")
