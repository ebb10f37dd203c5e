"""The activations of `ops.activations` and their derivatives, by their names there.

Selections are written so that NaN comes out as NaN, and at a kink the derivative is the one that torch's own
backward takes. Only functions are used that the interpreter has too. Constants stand where they are used:
Triton looks at every global of a kernel again at each launch, and ten of them double its time.
"""

import triton
import triton.language as tl

from batchnorm.ops.activations import LEAKY_SLOPE

__all__ = ["activate", "through"]

SLOPE = tl.constexpr(LEAKY_SLOPE)


@triton.jit
def _sigmoid(z):
    e = tl.exp(-tl.abs(z))  # at most 1: no overflow on either side
    return tl.where(z < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _tanh(z):
    size = tl.abs(z)
    e = tl.exp(-2.0 * size)
    far = (1.0 - e) / (1.0 + e)
    # Near zero 1 - e cancels. Taylor's series up to z^21: below 1e-17 of the value at 1/4.
    q = z * z
    series = q * (18888466084 / 194896477400625) - 443861162 / 1856156927625
    series = series * q + 6404582 / 10854718875
    series = series * q - 929569 / 638512875
    series = series * q + 21844 / 6081075
    series = series * q - 1382 / 155925
    series = series * q + 62 / 2835
    series = series * q - 17 / 315
    series = series * q + 2 / 15
    series = series * q - 1 / 3
    return tl.where(size < 0.25, z + z * q * series, tl.where(z < 0, -far, far))


@triton.jit
def _distribution(z):
    return 0.5 + 0.5 * tl.math.erf(z * 0.7071067811865476)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """act(z)."""
    y = z
    if ACTIVATION == "relu":
        y = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        y = tl.where(z < 0, z * SLOPE, z)
    elif ACTIVATION == "relu6":
        y = tl.where(z < 0, 0.0, tl.where(z > 6, 6.0, z))
    elif ACTIVATION == "sigmoid":
        y = _sigmoid(z)
    elif ACTIVATION == "tanh":
        y = _tanh(z)
    elif ACTIVATION == "silu":
        y = z * _sigmoid(z)
    elif ACTIVATION == "gelu":
        y = z * _distribution(z)
    elif ACTIVATION == "hardswish":
        inner = z * (z + 3.0) * (1 / 6)
        y = tl.where(z < -3, 0.0, tl.where(z > 3, z, inner))
    return y


@triton.jit
def through(grad, z, ACTIVATION: tl.constexpr):
    """Gradient of the pre-activation: grad · act'(z)."""
    dz = grad
    if ACTIVATION == "relu":
        dz = tl.where(z > 0, grad, 0.0)
    elif ACTIVATION == "leaky_relu":
        dz = tl.where(z > 0, grad, grad * SLOPE)
    elif ACTIVATION == "relu6":
        dz = tl.where((z > 0) & (z < 6), grad, 0.0)
    elif ACTIVATION == "sigmoid":
        y = _sigmoid(z)
        dz = grad * (y * (1.0 - y))
    elif ACTIVATION == "tanh":
        y = _tanh(z)
        dz = grad * (1.0 - y * y)
    elif ACTIVATION == "silu":
        y = _sigmoid(z)
        dz = grad * (y * (1.0 + z * (1.0 - y)))
    elif ACTIVATION == "gelu":
        dz = grad * (_distribution(z) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327)
    elif ACTIVATION == "hardswish":
        dz = tl.where(z <= -3, 0.0, tl.where(z < 3, grad * (z * (1 / 3) + 0.5), grad))
    return dz
