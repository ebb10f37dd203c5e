"""The general batch normalization: by hand, against its special cases, and its slopes."""

from types import MappingProxyType

import numpy as np
import pytest

from batchnorm.reference import (
    EXCLUDED,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_predict,
    batch_norm_predict_backward,
    weighted_backward,
    weighted_forward,
)
from tests.finite_differences import STEP, central_differences

ARGUMENTS = ("x", "weight", "bias", "residual")
SHAPE = (6, 2, 3)
PARTS = np.array([2, 0, 2, 0, 0, 2])  # no sample belongs to part 1


def arrays(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(1.0, 2.0, shape),
        "weight": rng.normal(2.0, 0.5, shape[1]),
        "bias": rng.normal(0.0, 1.0, shape[1]),
        "residual": rng.normal(0.0, 2.0, shape),
    }


def mask_of(channels=1, seed=1):
    return np.random.default_rng(seed).random((SHAPE[0], channels, SHAPE[2])) < 0.6


def correction(seed=2):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2.0, (3, 2)), rng.normal(size=(3, 2))


def fallback(seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 2)), rng.uniform(0.5, 2.0, (3, 2))


class TestByHand:
    """Values 1, 5, 9, 100 with weights 3, 1, 0, 0: V1 = 4, mean 2, var 3, and √(3 + 1) = 2.

    x_hat = −½, 3/2, 7/2, 49; with r = 2, d = 1 it becomes 0, 4, 8, 99, and with weight 3, bias −2 then
    z = −2, 10, 22, 295.
    """

    x = np.array([[1.0], [5.0], [9.0], [100.0]])
    affine = ([3.0], [-2.0], 1.0)
    options = MappingProxyType({"weights": [[3], [1], [0], [0]], "correction": ([[2.0]], [[1.0]])})

    def test_output(self):
        y = weighted_forward(self.x, *self.affine, **self.options, excluded="normalize")
        assert y.ravel().tolist() == [-2, 10, 22, 295]
        y = weighted_forward(self.x, *self.affine, **self.options, excluded="zero", activation="relu")
        assert y.ravel().tolist() == [0, 10, 0, 0]

    def test_gradients_where_excluded_values_are_normalized(self):
        # grad_z = (0, 1, 2, 0), p = 3 · grad_z, Σ p = 9, Σ p · x_hat = 9/2 + 21 = 51/2; shares ¾, ¼, 0, 0
        grads = weighted_backward(
            [[0.0], [1.0], [2.0], [0.0]], self.x, *self.affine, **self.options, excluded="normalize"
        )
        first, second = -0.75 * (9 - 51 / 4), 3 - 0.25 * (9 + 153 / 4)
        np.testing.assert_allclose(grads.grad_input.ravel(), [first, second, 6, 0], rtol=1e-15)
        assert grads.grad_weight.tolist() == [4 + 2 * 8]
        assert grads.grad_bias.tolist() == [3]
        assert grads.grad_residual.ravel().tolist() == [0, 1, 2, 0]

    def test_gradients_where_they_are_zero(self):
        # as above without the third: Σ p = 3, Σ p · x_hat = 9/2
        grads = weighted_backward(
            [[0.0], [1.0], [2.0], [9.0]], self.x, *self.affine, **self.options, excluded="zero"
        )
        first, second = -0.75 * (3 - 9 / 4), 3 - 0.25 * (3 + 27 / 4)
        np.testing.assert_allclose(grads.grad_input.ravel(), [first, second, 0, 0], rtol=1e-15)
        assert grads.grad_weight.tolist() == [4]
        assert grads.grad_bias.tolist() == [1]
        assert grads.grad_residual.ravel().tolist() == [0, 1, 0, 0]


KINDS = {
    "batch": {},
    "mask": {"weights": mask_of()},
    "mask of each channel": {"weights": mask_of(channels=2)},
    "weights": {"weights": mask_of() * np.random.default_rng(4).random(SHAPE)},
    "parts": {"parts": PARTS},
    "renorm": {"correction": tuple(row[:1] for row in correction())},
    "parts, renorm and weights": {
        "parts": PARTS,
        "correction": correction(),
        "weights": mask_of(channels=2, seed=5) * np.random.default_rng(4).random(SHAPE),
    },
    # part 0 has two samples, part 1 one value in a channel, part 2 nothing
    "parts that fall back": {
        "parts": [0, 0, 1, 2, 2, 2],
        "fallback": fallback(),
        "weights": np.array([[[1, 1, 0]], [[1, 0, 1]], [[0, 0, 0.7]], [[0, 0, 0]], [[0, 0, 0]], [[0, 0, 0]]]),
    },
}


@pytest.mark.parametrize("excluded", EXCLUDED)
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_slopes_of_the_forward(kind, activation, excluded):
    inputs, grad_output = arrays(), np.random.default_rng(6).normal(size=SHAPE)
    options = {"eps": 0.01, "excluded": excluded, **KINDS[kind]}
    z = weighted_forward(**inputs, **options)
    corners = np.abs(z[z != 0]).min()
    assert corners > 100 * STEP, "a difference across a corner is no slope: choose another seed"

    options["activation"] = activation
    gradients = weighted_backward(grad_output, **inputs, **options)
    for name, gradient in zip(ARGUMENTS, gradients, strict=True):
        slopes = central_differences(
            lambda **moved: np.sum(grad_output * weighted_forward(**moved, **options)), inputs, name
        )
        np.testing.assert_allclose(gradient, slopes, rtol=1e-7, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (2, 2, 3, 2), (2, 1, 2, 2, 2)])
def test_plain_batch_normalization_is_one_part_of_weights_of_one(shape):
    inputs, grad_output = arrays(shape), np.random.default_rng(1).normal(size=shape)
    for options in (
        {},
        {"weights": np.ones(shape), "correction": (np.ones((1, shape[1])), np.zeros((1, shape[1])))},
    ):
        y = weighted_forward(**inputs, activation="tanh", **options)
        np.testing.assert_allclose(y, batch_norm_forward(**inputs, activation="tanh"), rtol=1e-12)
        ours = weighted_backward(grad_output, **inputs, activation="tanh", **options)
        theirs = batch_norm_backward(grad_output, **inputs, activation="tanh")
        for name, our, their in zip(ours._fields, ours, theirs, strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-12, atol=1e-14, err_msg=name)


def test_parts_are_batches_of_their_own():
    inputs, grad_output = arrays(), np.random.default_rng(7).normal(size=SHAPE)
    x, weight, bias, residual = inputs.values()
    y = weighted_forward(**inputs, parts=PARTS)
    grads = weighted_backward(grad_output, **inputs, parts=PARTS)
    grad_weight = np.zeros(2)
    for part in (0, 2):
        rows = part == PARTS
        alone = batch_norm_backward(grad_output[rows], x[rows], weight, bias, residual=residual[rows])
        np.testing.assert_allclose(
            y[rows], batch_norm_forward(x[rows], weight, bias, residual=residual[rows]), rtol=1e-12
        )
        np.testing.assert_allclose(grads.grad_input[rows], alone.grad_input, rtol=1e-11, atol=1e-14)
        grad_weight += alone.grad_weight
    np.testing.assert_allclose(grads.grad_weight, grad_weight, rtol=1e-12)


def test_a_mask_gives_what_the_values_it_keeps_give_alone():
    inputs, grad_output, mask = arrays(), np.random.default_rng(7).normal(size=SHAPE), mask_of()

    def kept(values):
        return np.moveaxis(values, 1, -1)[mask[:, 0]]  # (M, C)

    x, weight, bias, residual = inputs.values()
    y = weighted_forward(**inputs, weights=mask)
    grads = weighted_backward(grad_output, **inputs, weights=mask)
    alone = batch_norm_backward(kept(grad_output), kept(x), weight, bias, residual=kept(residual))
    np.testing.assert_allclose(
        kept(y), batch_norm_forward(kept(x), weight, bias, residual=kept(residual)), rtol=1e-12
    )
    np.testing.assert_allclose(kept(grads.grad_input), alone.grad_input, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(grads.grad_weight, alone.grad_weight, rtol=1e-12)
    for values in (y, grads.grad_input, grads.grad_residual):
        assert not values[~np.broadcast_to(mask, SHAPE)].any()


def test_without_channels_there_is_nothing_to_do():
    x = np.zeros((3, 0))
    assert weighted_forward(x, parts=[0, 1, 1]).shape == (3, 0)
    assert [values.shape for values in weighted_backward(x, x)] == [(3, 0), (0,), (0,), (3, 0)]


def test_excluded_positions_keep_a_nan_to_themselves():
    mask = mask_of()
    inputs, grad_output = arrays(), np.random.default_rng(7).normal(size=SHAPE)
    clean = weighted_forward(**inputs, weights=mask, activation="gelu")
    clean_grads = weighted_backward(grad_output, **inputs, weights=mask, activation="gelu")
    holes = ~np.broadcast_to(mask, SHAPE)
    for values in (inputs["x"], inputs["residual"], grad_output):
        values[holes] = np.nan
    assert np.array_equal(weighted_forward(**inputs, weights=mask, activation="gelu"), clean)
    grads = weighted_backward(grad_output, **inputs, weights=mask, activation="gelu")
    for ours, theirs in zip(grads, clean_grads, strict=True):
        assert np.array_equal(ours, theirs)


def test_where_it_falls_back_it_is_prediction():
    inputs, grad_output = arrays(), np.random.default_rng(7).normal(size=SHAPE)
    options = {"parts": [0, 0, 0, 1, 2, 2], "weights": np.array([1, 1, 1, 1, 0, 0]).reshape(-1, 1, 1)}
    options["weights"] = options["weights"] * [[[1, 0, 0]]]  # part 1 has one value, part 2 none
    mean, var = fallback()
    y = weighted_forward(**inputs, **options, fallback=(mean, var), excluded="normalize")
    grads = weighted_backward(grad_output, **inputs, **options, fallback=(mean, var), excluded="normalize")
    x, weight, bias, residual = inputs.values()
    for part, rows in ((1, [3]), (2, [4, 5])):
        arguments = (x[rows], mean[part], var[part], weight, bias)
        alone = batch_norm_predict(*arguments, residual=residual[rows])
        np.testing.assert_allclose(y[rows], alone, rtol=1e-13)
        held = batch_norm_predict_backward(grad_output[rows], *arguments, residual=residual[rows])
        np.testing.assert_allclose(grads.grad_input[rows], held.grad_input, rtol=1e-13)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"excluded": "drop"}, "excluded expected one of zero, normalize, got 'drop'"),
        (
            {"weights": [[1, 1], [1, 0]]},
            "x expected at least 2 values of positive weight in each part and channel, got fewer in [[1]]",
        ),
        (
            {"parts": [0, 1]},
            "x expected at least 2 values of positive weight in each part and channel, "
            "got fewer in [[0], [1]]",
        ),
        (
            {"parts": [0, 1], "fallback": (np.ones((1, 2)), np.ones((1, 2)))},
            "fallback expected shape (P, 2) with P above 1, got (1, 2)",
        ),
        (
            {"correction": (np.ones((1, 2)), np.ones(2))},
            "correction expected shape (P, 2) with P above 0, got (2,)",
        ),
        ({"residual": np.ones((2, 1))}, "residual expected the shape (2, 2) of x, got (2, 1)"),
        ({"weight": np.ones(1)}, "weight expected shape (2,), one value per channel, got (1,)"),
    ],
)
def test_refusals(options, text):
    for call in (weighted_forward, lambda x, **rest: weighted_backward(x, x, **rest)):
        with pytest.raises(ValueError, match=r"^batch_norm: ") as refusal:
            call(np.array([[1.0, 2.0], [3.0, 5.0]]), **options)
        assert str(refusal.value) == f"batch_norm: {text}"
