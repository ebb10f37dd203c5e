"""The oracle against numbers done by hand, exact rational arithmetic, and torch in float64."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from batchnorm.reference import (
    activate,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_predict,
    batch_norm_predict_backward,
    batch_stats,
    normalizing_stats,
    part_moments,
    renorm_correction,
    update_running_ghost,
    update_running_stats,
    weighted_forward,
)

SHAPES = [(5, 3), (2, 1), (4, 3, 7), (3, 2, 5, 4), (1, 2, 2, 1), (2, 3, 3, 2, 2)]


class TestByHand:
    """One channel holds 1, 3, 5, 11 (mean 5, var 14, unbiased 56/3); the other is constant."""

    x = np.array([[[1.0, 3.0], [7.0, 7.0]], [[5.0, 11.0], [7.0, 7.0]]])  # (N, C, L) = (2, 2, 2)

    def test_statistics(self):
        mean, var = batch_stats(self.x)
        assert mean.tolist() == [5, 7]
        assert var.tolist() == [14, 0]

    def test_output(self):
        # var + eps = 16 in the first channel, so x_hat = (x − 5) / 4; the constant channel gives its bias
        y = batch_norm_forward(self.x, weight=[8.0, 3.0], bias=[1.0, -2.0], eps=2.0)
        assert y.tolist() == [[[-7, -3], [-2, -2]], [[1, 13], [-2, -2]]]

    def test_output_with_residual_and_activation(self):
        residual = np.array([[[8.0, 1.0], [3.0, 1.0]], [[0.0, 0.0], [2.0, 9.0]]])
        y = batch_norm_forward(
            self.x, [8.0, 3.0], [1.0, -2.0], eps=2.0, residual=residual, activation="relu6"
        )
        assert y.tolist() == [[[1, 0], [1, 0]], [[1, 6], [0, 6]]]

    def test_gradients(self):
        # first channel: x_hat = (−1, −½, 0, 3/2), weight · invstd = 2, grad_z = (1, 0, 0, 0); so
        # p = (2, 0, 0, 0), mean(p) = ½, mean(p · x_hat) = −½, grad_input = p − ½ + ½ · x_hat
        grad_output = np.zeros_like(self.x)
        grad_output[0, :, 0] = 1
        grads = batch_norm_backward(grad_output, self.x, weight=[8.0, 3.0], bias=[1.0, -2.0], eps=2.0)
        np.testing.assert_allclose(grads.grad_input[:, 0], [[1, -0.75], [-0.5, 0.25]], rtol=1e-15)
        invstd = 1 / np.sqrt(2)
        np.testing.assert_allclose(
            grads.grad_input[:, 1], 3 * invstd * np.array([[0.75, -0.25], [-0.25, -0.25]]), rtol=1e-15
        )
        assert grads.grad_weight.tolist() == [-1, 0]
        assert grads.grad_bias.tolist() == [1, 1]
        assert grads.grad_residual.tolist() == grad_output.tolist()

    def test_prediction_and_its_gradients(self):
        args = ([[10.0, 0.0]], [4.0, 4.0], [8.0, 15.0], [6.0, 2.0], [-7.0, 0.5])
        assert batch_norm_predict(*args, eps=1.0).tolist() == [[5, -1.5]]
        grads = batch_norm_predict_backward([[3.0, 5.0]], *args, eps=1.0, activation="relu")
        assert grads.grad_input.tolist() == [[6, 0]]
        assert grads.grad_weight.tolist() == [6, 0]
        assert grads.grad_bias.tolist() == [3, 0]
        assert grads.grad_residual.tolist() == [[3, 0]]

    def test_running_statistics(self):
        mean, var, batches = update_running_stats([0.0], [1.0], 0, [5.0], [14.0], count=4, momentum=0.25)
        np.testing.assert_allclose(mean, [1.25], rtol=1e-15)
        np.testing.assert_allclose(var, [0.75 + 14 / 3], rtol=1e-15)
        assert batches == 1


def test_the_textbooks_thirty_samples_in_six_batches_of_five():
    """Samples 1 … 30 in order: batch means 3, 8, 13, 18, 23, 28, each with unbiased variance 5/2."""
    exponential = cumulative = (np.zeros(1), np.ones(1), 0)
    for first in range(1, 31, 5):
        x = np.arange(first, first + 5.0)[:, None]
        mean, var = batch_stats(x)
        assert mean.tolist() == [first + 2]
        exponential = update_running_stats(*exponential, mean, var, count=5, momentum=0.1)
        cumulative = update_running_stats(*cumulative, mean, var, count=5, momentum=None)
    # 0.1 · (28 + 0.9 · 23 + 0.9² · 18 + 0.9³ · 13 + 0.9⁴ · 8 + 0.9⁵ · 3) and 0.9⁶ · 1 + (1 − 0.9⁶) · 5/2
    np.testing.assert_allclose(exponential[0], [7.977727], rtol=1e-14)
    np.testing.assert_allclose(exponential[1], [0.531441 + 2.5 * (1 - 0.531441)], rtol=1e-15)
    # the plain mean forgets the initial 0 and 1
    np.testing.assert_allclose(cumulative[0], [15.5], rtol=1e-15)
    np.testing.assert_allclose(cumulative[1], [2.5], rtol=1e-15)
    assert exponential[2] == cumulative[2] == 6


@pytest.mark.parametrize("shape", [(300, 2), (7, 2, 900), (1, 2, 4000)])
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_statistics_against_exact_rational_arithmetic(shape, offset):
    """The oracle's own error, in units of u · κ, stays below 1; the tests of kernels allow 16."""
    x = np.random.default_rng(0).normal(offset, 1.0, shape)
    mean, var = batch_stats(x)
    for channel in range(2):
        values = [Fraction(v) for v in x[:, channel].ravel().tolist()]
        exact_mean = sum(values) / len(values)
        exact_var = sum((v - exact_mean) ** 2 for v in values) / len(values)
        unit = np.finfo(np.float64).eps * np.sqrt(1 + float(exact_mean**2 / exact_var))
        assert abs(Fraction(mean[channel]) - exact_mean) <= unit * float(exact_var) ** 0.5
        assert abs(Fraction(var[channel]) - exact_var) <= unit * float(exact_var)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_output_and_gradients_agree_with_torch_in_float64(shape, training):
    generator = torch.Generator().manual_seed(1)
    x, residual, grad_output = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    weight, bias, mean, var = (
        torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.5 for _ in range(4)
    )
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias, residual)]
    layer_output = torch.nn.functional.batch_norm(
        leaves[0], mean.clone(), var.clone(), leaves[1], leaves[2], training, eps=1e-3
    )
    expected = torch.tanh(layer_output + leaves[3])
    expected.backward(grad_output)

    arrays = [t.numpy() for t in (weight, bias)]
    options = {"eps": 1e-3, "residual": residual.numpy(), "activation": "tanh"}
    if training:
        y = batch_norm_forward(x.numpy(), *arrays, **options)
        grads = batch_norm_backward(grad_output.numpy(), x.numpy(), *arrays, **options)
    else:
        statistics = [mean.numpy(), var.numpy()]
        y = batch_norm_predict(x.numpy(), *statistics, *arrays, **options)
        grads = batch_norm_predict_backward(grad_output.numpy(), x.numpy(), *statistics, *arrays, **options)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-12, atol=1e-13)
    for ours, leaf in zip(grads, leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
def test_running_statistics_agree_with_torch_over_several_steps(shape, momentum):
    layer = torch.nn.modules.batchnorm._BatchNorm(shape[1], momentum=momentum, dtype=torch.float64)
    layer._check_input_dim = lambda x: None
    ours = (np.zeros(shape[1]), np.ones(shape[1]), 0)
    for step in range(4):
        x = np.random.default_rng(step).normal(step, 1 + step, shape)
        layer(torch.tensor(x))
        ours = update_running_stats(*ours, *batch_stats(x), count=x.size // shape[1], momentum=momentum)
    np.testing.assert_allclose(ours[0], layer.running_mean, rtol=1e-13)
    np.testing.assert_allclose(ours[1], layer.running_var, rtol=1e-13)
    assert ours[2] == layer.num_batches_tracked.item()


def test_training_forgets_the_level_and_scale_of_its_input():
    x = np.random.default_rng(0).normal(size=(4, 3, 5))
    np.testing.assert_allclose(
        batch_norm_forward(100 + 7 * x, eps=0.0), batch_norm_forward(x, eps=0.0), atol=1e-12
    )


def test_a_list_of_integers_is_computed_in_float64():
    assert batch_norm_forward([[1], [3]], eps=0).dtype == np.float64


@pytest.mark.parametrize("wrap", [np.array, torch.tensor])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_new_and_the_callers_stay(wrap, momentum):
    before = [wrap(values) for values in ([2.0], [1.0], 3, [4.0], [1.0], 4)]
    after = update_running_stats(*before, momentum)
    assert [values.tolist() for values in before] == [[2.0], [1.0], 3, [4.0], [1.0], 4]
    assert [type(values) for values in after] == [np.ndarray, np.ndarray, int]
    assert after[2] == 4


@pytest.mark.parametrize("shape", [(3, 0), (3, 0, 2)])
def test_without_channels_there_is_nothing_to_do(shape):
    x, none = np.zeros(shape), np.zeros(0)
    grads = [batch_norm_backward(x, x), batch_norm_predict_backward(x, x, none, none)]
    assert batch_norm_forward(x).shape == batch_norm_predict(x, none, none).shape == shape
    assert [values.shape for values in grads[0]] == [values.shape for values in grads[1]]
    assert [values.shape for values in grads[0]] == [shape, (0,), (0,), shape]


def test_nan_goes_on_as_in_torch():
    x = np.array([[1.0, np.nan], [3.0, 5.0]])
    expected = torch.nn.functional.batch_norm(torch.tensor(x), None, None, training=True)
    np.testing.assert_allclose(batch_norm_forward(x), expected, rtol=1e-12)
    y = batch_norm_predict([[1.0, 2.0]], [0.0, 0.0], [1.0, np.nan], eps=0.0)
    np.testing.assert_array_equal(y, [[1.0, np.nan]])


class TestRefusals:
    """What has no answer raises, in one line that names the argument."""

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (lambda: batch_stats(np.ones(3)), "x expected shape (N, C, *spatial), got (3,)"),
            (
                lambda: batch_stats(np.ones((0, 3))),
                "x expected at least 1 value per channel, got shape (0, 3)",
            ),
            (
                lambda: batch_norm_forward(np.ones((1, 3))),
                "x expected at least 2 values per channel in training, got shape (1, 3)",
            ),
            (
                lambda: batch_norm_backward(np.ones((1, 3, 1, 1)), np.ones((1, 3, 1, 1))),
                "x expected at least 2 values per channel in training, got shape (1, 3, 1, 1)",
            ),
            (
                lambda: batch_norm_forward(np.ones((2, 3)), weight=np.ones(2)),
                "weight expected shape (3,), one value per channel, got (2,)",
            ),
            (
                lambda: batch_norm_forward(np.ones((2, 3)), bias=np.ones((1, 3))),
                "bias expected shape (3,), one value per channel, got (1, 3)",
            ),
            (
                lambda: batch_norm_predict(np.ones((2, 3)), np.ones(4), np.ones(3)),
                "mean expected shape (3,), one value per channel, got (4,)",
            ),
            (
                lambda: batch_norm_predict(np.ones((2, 3)), np.ones(3), np.ones(1)),
                "var expected shape (3,), one value per channel, got (1,)",
            ),
            (
                lambda: batch_norm_forward(np.ones((2, 3)), residual=np.ones((2, 1))),
                "residual expected the shape (2, 3) of x, got (2, 1)",
            ),
            (
                lambda: batch_norm_backward(np.ones((3, 2)), np.ones((2, 3))),
                "grad_output expected the shape (2, 3) of x, got (3, 2)",
            ),
            (
                lambda: batch_norm_forward([[1.0, 2.0], [1.0, 3.0]], eps=0.0),
                "var expected var + eps above 0, got 0.0 + 0.0",
            ),
            (
                lambda: batch_norm_forward([[1.0, 2.0], [1.0, 3.0]], eps=np.nan),
                "var expected var + eps above 0, got 0.0 + nan",
            ),
            (
                lambda: batch_norm_predict(np.ones((2, 2)), np.ones(2), [np.nan, -1.0]),
                "var expected var + eps above 0, got -1.0 + 1e-05",
            ),
            (
                lambda: update_running_stats([0.0], [1.0], 0, [1.0], [0.0], count=1),
                "count expected at least 2 values per channel, got 1",
            ),
            (
                lambda: update_running_stats([0.0], [1.0], 0, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], count=4),
                "mean expected the shape (1,) of running_mean, got (3,)",
            ),
            (
                lambda: update_running_stats([0.0], [1.0], 0, [1.0], [[1.0]], count=4),
                "var expected the shape (1,) of running_mean, got (1, 1)",
            ),
            (
                lambda: update_running_stats([0.0], 1.0, 0, [1.0], [1.0], count=4),
                "running_var expected the shape (1,) of running_mean, got ()",
            ),
        ],
    )
    def test_one_line_says_what_was_expected_and_what_came(self, call, text):
        with pytest.raises(ValueError, match=r"^batch_norm: ") as refusal:
            call()
        assert str(refusal.value) == f"batch_norm: {text}"

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("x", batch_stats),
            ("x", batch_norm_forward),
            ("weight", lambda masked: batch_norm_forward(np.eye(2), weight=masked[0])),
            ("var", lambda masked: batch_norm_predict(np.eye(2), [0.0, 0.0], masked[0])),
            ("residual", lambda masked: batch_norm_forward(np.eye(2), residual=masked)),
            ("running_mean", lambda masked: update_running_stats(masked, [1.0], 0, [1.0], [1.0], 4)),
            ("weights", lambda masked: weighted_forward(np.eye(2), weights=masked)),
            ("parts", lambda masked: part_moments(np.eye(2), parts=masked[0])),
            ("fallback", lambda masked: normalizing_stats(part_moments(np.eye(2)), (masked, masked))),
            ("mean", lambda masked: renorm_correction(masked, [1.0], [1.0], [1.0], 3.0, 5.0)),
            ("running_mean", lambda masked: update_running_ghost(masked, [1.0], 0, part_moments(np.eye(2)))),
            ("z", lambda masked: activate(masked, "relu")),
        ],
    )
    def test_a_mask_is_not_dropped(self, name, call):
        words = "expected an array without a mask (weights say what counts), got a masked array"
        with pytest.raises(ValueError, match=f"^{re.escape(f'batch_norm: {name} {words}')}$"):
            call(np.ma.masked_array([[1, 2], [3, 900]], mask=[[0, 0], [0, 1]]))

    def test_one_value_per_channel_is_fine_in_prediction(self):
        assert batch_norm_predict([[3.0]], [1.0], [3.0], eps=1.0).tolist() == [[1.0]]
