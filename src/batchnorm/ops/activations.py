"""The nine activations a batch-norm kernel can apply on its way out, and their derivatives.

Ops carry an activation as its place in `ACTIVATIONS`: an integer crosses the dispatcher faster
than a string. Place 0 is the identity.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "activate", "activation_code", "activation_derivative"]

ACTIVATIONS = (None, "relu", "leaky_relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "hardswish")

LEAKY_SLOPE = 0.01  # torch.nn.LeakyReLU's default


def activation_code(name: str | None) -> int:
    """Place of an activation in `ACTIVATIONS`.

    Args:
        name: None (identity) or one of the names.

    Raises:
        ValueError: If there is no such activation.
    """
    try:
        return ACTIVATIONS.index(name)
    except ValueError:
        names = ", ".join(str(known) for known in ACTIVATIONS)
        raise ValueError(f"batch_norm: activation expected one of {names}, got {name!r}") from None


_FORWARD: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda z: z,
    torch.relu,
    lambda z: F.leaky_relu(z, LEAKY_SLOPE),
    F.relu6,
    torch.sigmoid,
    torch.tanh,
    F.silu,
    F.gelu,
    F.hardswish,
)


def _sigmoid_derivative(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _silu_derivative(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _gelu_derivative(z: Tensor) -> Tensor:
    # d/dz z·Φ(z) = Φ(z) + z·φ(z), Φ and φ the normal distribution and density
    cdf = 0.5 * torch.erfc(-z * math.sqrt(0.5))
    density = torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return cdf + z * density


def _hardswish_derivative(z: Tensor) -> Tensor:
    # torch takes the outer slope at both kinks
    return torch.where(z <= -3, 0.0, torch.where(z < 3, z / 3 + 0.5, 1.0))


_DERIVATIVE: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.ones_like,
    lambda z: (z > 0).to(z.dtype),
    lambda z: torch.where(z > 0, 1.0, torch.full_like(z, LEAKY_SLOPE)),
    lambda z: ((z > 0) & (z < 6)).to(z.dtype),
    _sigmoid_derivative,
    lambda z: 1 - torch.tanh(z) ** 2,
    _silu_derivative,
    _gelu_derivative,
    _hardswish_derivative,
)


def activate(z: Tensor, code: int) -> Tensor:
    """Value of the activation.

    Args:
        z: Pre-activation, any shape, floating.
        code: From `activation_code`.
    """
    return _FORWARD[code](z)


def activation_derivative(z: Tensor, code: int) -> Tensor:
    """Derivative of the activation; at a kink the one that torch's own backward takes.

    Args:
        z: Pre-activation, any shape, floating.
        code: From `activation_code`.
    """
    return _DERIVATIVE[code](z)
