"""The activations' values and slopes, against hand-computed numbers and against torch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from batchnorm.reference import ACTIVATIONS, activate, activation_derivative

# tails, corners and their neighbours
POINTS = np.concatenate(
    [np.linspace(-12, 12, 481), [-700.0, -40.0, 40.0, 700.0, -3 - 1e-9, -3 + 1e-9, 6 - 1e-9, 6 + 1e-9]]
)

TORCH = {
    None: lambda z: z * 1,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


def test_there_are_nine():
    assert set(ACTIVATIONS) == set(TORCH)
    assert len(ACTIVATIONS) == 9


@pytest.mark.parametrize(
    ("activation", "z", "value", "derivative"),
    [
        (None, -1.5, -1.5, 1),
        ("relu", 2.0, 2.0, 1),
        ("leaky_relu", -2.0, -0.02, 0.01),
        ("relu6", 7.0, 6.0, 0),
        ("sigmoid", math.log(3), 3 / 4, 3 / 16),
        ("tanh", math.log(2), 3 / 5, 16 / 25),
        ("silu", math.log(3), math.log(3) * 3 / 4, 3 / 4 + math.log(3) * 3 / 16),
        ("gelu", 1.0, 0.8413447460685429, 0.8413447460685429 + 0.24197072451914337),
        ("hardswish", 1.0, 2 / 3, 5 / 6),
    ],
)
def test_value_and_derivative_at_a_point_done_by_hand(activation, z, value, derivative):
    assert activate(z, activation) == pytest.approx(value, rel=1e-15)
    assert activation_derivative(z, activation) == pytest.approx(derivative, rel=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_agrees_with_torch_in_float64_corners_included(activation):
    z = torch.tensor(POINTS, requires_grad=True)
    y = TORCH[activation](z)
    y.sum().backward()
    # torch forms 1 + erf, which costs gelu's left tail its relative digits but not its absolute ones
    np.testing.assert_allclose(activate(POINTS, activation), y.detach(), rtol=4e-15, atol=4e-15)
    np.testing.assert_allclose(activation_derivative(POINTS, activation), z.grad, rtol=4e-15, atol=4e-15)


def test_sigmoid_keeps_its_digits_far_out_without_overflow():
    with np.errstate(over="raise"):
        values = activate([-720.0, 720.0], "sigmoid")
    np.testing.assert_allclose(values, [math.exp(-720), 1.0], rtol=1e-9)


def test_gelu_keeps_the_digits_of_its_left_tail():
    # Φ(−8) from a table of the normal distribution
    np.testing.assert_allclose(activate(-8.0, "gelu"), -8 * 6.220960574271785e-16, rtol=1e-13)


@pytest.mark.parametrize("function", [activate, activation_derivative])
def test_refuses_an_unknown_activation(function):
    with pytest.raises(
        ValueError, match=r"^batch_norm: activation expected one of None, relu, .* got 'swish'$"
    ):
        function(0.0, "swish")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_value_is_an_array_of_its_own(activation):
    z = np.ones(3)
    assert not np.shares_memory(activate(z, activation), z)
