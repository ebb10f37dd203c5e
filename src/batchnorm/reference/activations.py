"""The nine activations that may follow batch normalization, each beside its derivative.

A corner of a curve has two slopes. We take the one that torch's backward takes: the outer one, which
is the slope on the side of minus infinity at 0 and −3, and on the side of plus infinity at 3 and 6.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from batchnorm.reference.channels import Array, as_float64

__all__ = ["ACTIVATIONS", "activate", "activation_derivative"]

LEAKY_SLOPE = 0.01

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(z: Array) -> Array:
    # 1 / (1 + e⁻ᶻ) through logarithms: e⁻ᶻ alone overflows below z = −709
    return np.exp(-np.logaddexp(0.0, -z))


def _normal_cdf(z: Array) -> Array:
    # erfc, not 1 + erf, keeps the digits of the left tail
    return np.asarray(0.5 * _erfc(-z / math.sqrt(2)), dtype=np.float64)


def _normal_density(z: Array) -> Array:
    return np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)


# Of each: the value, then the derivative.
_CURVES: dict[str | None, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    None: (
        lambda z: z.copy(),
        lambda z: np.ones_like(z),
    ),
    "relu": (
        lambda z: np.maximum(z, 0.0),
        lambda z: np.where(z > 0, 1.0, 0.0),
    ),
    "leaky_relu": (
        lambda z: np.where(z > 0, z, LEAKY_SLOPE * z),
        lambda z: np.where(z > 0, 1.0, LEAKY_SLOPE),
    ),
    "relu6": (
        lambda z: np.clip(z, 0.0, 6.0),
        lambda z: np.where((z > 0) & (z < 6), 1.0, 0.0),
    ),
    "sigmoid": (
        _sigmoid,
        lambda z: _sigmoid(z) * _sigmoid(-z),
    ),
    "tanh": (
        lambda z: np.tanh(z),
        lambda z: 1.0 - np.tanh(z) ** 2,
    ),
    "silu": (
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1.0 + z * _sigmoid(-z)),
    ),
    "gelu": (
        lambda z: z * _normal_cdf(z),
        lambda z: _normal_cdf(z) + z * _normal_density(z),
    ),
    "hardswish": (
        lambda z: z * np.clip(z + 3.0, 0.0, 6.0) / 6.0,
        lambda z: np.where(z <= -3, 0.0, np.where(z >= 3, 1.0, z / 3.0 + 0.5)),
    ),
}

ACTIVATIONS = tuple(_CURVES)


def _curve(activation: str | None) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    if activation not in _CURVES:
        names = ", ".join(str(name) for name in ACTIVATIONS)
        raise ValueError(f"batch_norm: activation expected one of {names}, got {activation!r}")
    return _CURVES[activation]


def activate(z: ArrayLike, activation: str | None) -> Array:
    """Value of an activation.

    ==============  =====================================================
    None            z
    ``relu``        max(z, 0)
    ``leaky_relu``  z where z > 0, else 0.01 z
    ``relu6``       min(max(z, 0), 6)
    ``sigmoid``     σ(z) = 1 / (1 + e⁻ᶻ)
    ``tanh``        tanh z
    ``silu``        z σ(z)
    ``gelu``        z Φ(z), Φ the normal distribution function (exact form)
    ``hardswish``   z min(max(z + 3, 0), 6) / 6
    ==============  =====================================================

    Args:
        z: Pre-activation, any shape.
        activation: One of `ACTIVATIONS`.

    Returns:
        Shape of ``z``; float64.

    Raises:
        ValueError: If there is no such activation.

    Example:
        >>> activate([-1.0, 0.5, 8.0], "relu6")
        array([0. , 0.5, 6. ])
    """
    value, _ = _curve(activation)
    return value(as_float64("z", z))


def activation_derivative(z: ArrayLike, activation: str | None) -> Array:
    """Derivative of an activation with respect to ``z``.

    Args:
        z: Pre-activation, any shape.
        activation: One of `ACTIVATIONS`.

    Returns:
        Shape of ``z``; float64.

    Raises:
        ValueError: If there is no such activation.

    Example:
        >>> activation_derivative([-1.0, 0.0, 0.5], "relu")
        array([0., 0., 1.])
    """
    _, derivative = _curve(activation)
    return derivative(as_float64("z", z))
