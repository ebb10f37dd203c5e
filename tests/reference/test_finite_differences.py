"""The hand-written gradients against central differences of the forward functions."""

import numpy as np
import pytest

from batchnorm.reference import (
    ACTIVATIONS,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_predict,
    batch_norm_predict_backward,
)
from tests.finite_differences import STEP, central_differences

ARGUMENTS = ("x", "weight", "bias", "residual")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 1), (6, 2), (2, 3, 4), (2, 2, 3, 2), (2, 1, 2, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_the_slopes_of_the_forward(activation, shape, training):
    rng = np.random.default_rng(3)
    # spread over ±4 or so, to see both corners of relu6 and hardswish
    arrays = {
        "x": rng.normal(1.0, 2.0, shape),
        "weight": rng.normal(2.0, 0.5, shape[1]),
        "bias": rng.normal(0.0, 1.0, shape[1]),
        "residual": rng.normal(0.0, 2.0, shape),
    }
    grad_output = rng.normal(size=shape)
    options = {"eps": 0.01, "activation": activation}
    statistics = () if training else (rng.normal(size=shape[1]), rng.uniform(0.5, 2.0, shape[1]))
    forward = batch_norm_forward if training else batch_norm_predict
    backward = batch_norm_backward if training else batch_norm_predict_backward

    def call(function, *first, x, weight, bias, residual):
        return function(*first, x, *statistics, weight, bias, residual=residual, **options)

    z = call(lambda *args, **kwargs: forward(*args, **{**kwargs, "activation": None}), **arrays)
    corners = np.abs(z[..., None] - np.array([-3.0, 0.0, 3.0, 6.0])).min()
    assert corners > 100 * STEP, "a difference across a corner is no slope: choose another seed"

    gradients = call(backward, grad_output, **arrays)
    for name, gradient in zip(ARGUMENTS, gradients, strict=True):
        slopes = central_differences(
            lambda **moved: np.sum(grad_output * call(forward, **moved)), arrays, name
        )
        np.testing.assert_allclose(gradient, slopes, rtol=1e-7, atol=1e-8, err_msg=name)
