"""How far a sound implementation may be from the oracle: bounds derived, not tuned.

Per channel let u be the machine epsilon of the accumulator and κ = √(1 + mean²/(var + eps)), by which
normalizing magnifies the rounding of its input. Every bound is

    16 · u · κ · scale      the arithmetic, the scale being that of the terms which are added up
    + ½ · u_out · |value|   the one rounding of the result to its own dtype

Sums taken in blocks or in double stay below 4 in the first term's units, whatever M is; E[x²] − E[x]²
and a long sequential float32 sum do not stay below 16 (`test_tolerances`). An activation passes on the
error of its argument times its steepest slope; around a corner, where an error may put the argument on
the other side, the whole jump of the slope is allowed and propagated, so no element is left out.
"""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from batchnorm.reference import activate, activation_derivative
from batchnorm.reference.channels import along_channels, channel_mean, channel_sum

__all__ = ["CURVES", "Curve", "Tolerances", "assert_close", "running_tolerance"]

Array = NDArray[np.float64]

MARGIN = 16


@dataclasses.dataclass(frozen=True)
class Curve:
    """What an activation does to errors.

    Attributes:
        steepest: Largest slope, sup |a′|.
        bend: Largest change of slope per unit away from corners, sup |a″|.
        corners: Where the slope jumps.
        jump: By how much.
    """

    steepest: float = 1.0
    bend: float = 0.0
    corners: tuple[float, ...] = ()
    jump: float = 0.0


CURVES: dict[str | None, Curve] = {
    None: Curve(),
    "relu": Curve(corners=(0,), jump=1.0),
    "leaky_relu": Curve(corners=(0,), jump=0.99),
    "relu6": Curve(corners=(0, 6), jump=1.0),
    "sigmoid": Curve(steepest=1 / 4, bend=0.0963),  # bend 1/(6√3)
    "tanh": Curve(bend=0.7699),  # 4/(3√3)
    "silu": Curve(steepest=1.1, bend=0.5),
    "gelu": Curve(steepest=1.1291, bend=0.7979),  # Φ(√2) + √2 φ(√2), 2φ(0)
    "hardswish": Curve(steepest=1.5, bend=1 / 3, corners=(-3, 3), jump=0.5),
}


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """Bounds on each result of batch normalization, as arrays of the results' shapes.

    Attributes:
        x: Input, shape ``(N, C, *spatial)``, the exact values that the implementation was given.
        mean: ``(C,)``, exact: the oracle's for a batch, the given ones in prediction.
        var: ``(C,)``, as ``mean``; biased.
        eps: Added to the variance.
        weight: ``(C,)`` or None.
        bias: ``(C,)`` or None.
        residual: Shape of ``x`` or None.
        activation: As in the oracle.
        grad_output: Shape of ``x``; needed for the gradients only.
        accumulator: Dtype of sums and arithmetic.
        stored: Dtype of the input, the output and their gradients.
        parameters: Dtype of the gradients of weight and bias.
        composed: The steps are separate operations: z and its gradient are also rounded to ``stored``
            between normalizing, adding and activating.
        training: ``grad_input`` flows through the statistics too.
    """

    x: Array
    mean: Array
    var: Array
    eps: float
    weight: Array | None = None
    bias: Array | None = None
    residual: Array | None = None
    activation: str | None = None
    grad_output: Array | None = None
    accumulator: torch.dtype = torch.float32
    stored: torch.dtype = torch.float32
    parameters: torch.dtype = torch.float32
    composed: bool = False
    training: bool = True

    @property
    def _unit(self) -> float:
        return torch.finfo(self.accumulator).eps

    def _along(self, values: Array) -> Array:
        return along_channels(values, self.x)

    def _mean(self, values: Array) -> Array:
        return self._along(channel_mean(values))

    @cached_property
    def kappa(self) -> Array:
        """Condition number of each channel, ``(C,)``."""
        return np.sqrt(1.0 + self.mean**2 / (self.var + self.eps))

    @cached_property
    def _arithmetic(self) -> Array:
        return self._along(MARGIN * self._unit * self.kappa)

    @cached_property
    def _x_hat(self) -> Array:
        return (self.x - self._along(self.mean)) * self._invstd

    @cached_property
    def _invstd(self) -> Array:
        return self._along(1 / np.sqrt(self.var + self.eps))

    @cached_property
    def _weight(self) -> Array:
        return self._along(np.ones_like(self.mean) if self.weight is None else self.weight)

    @cached_property
    def _bias(self) -> Array:
        return self._along(np.zeros_like(self.mean) if self.bias is None else self.bias)

    @cached_property
    def _residual(self) -> Array:
        return np.zeros(()) if self.residual is None else self.residual

    @cached_property
    def _z(self) -> Array:
        return self._weight * self._x_hat + self._bias + self._residual

    # Results of the forward

    @cached_property
    def batch_mean(self) -> Array:
        """Scale: the root mean square of the channel."""
        return MARGIN * self._unit * np.sqrt(self.mean**2 + self.var)

    @cached_property
    def batch_var(self) -> Array:
        """Scale: var + eps. For the unbiased variance multiply by M / (M − 1) too."""
        return MARGIN * self._unit * self.kappa * (self.var + self.eps)

    @cached_property
    def pre_activation(self) -> Array:
        """Scale: |weight| · (1 + |x_hat|); bias and residual take part in the last two additions only."""
        tolerance: Array = self._arithmetic * np.abs(self._weight) * (1 + np.abs(self._x_hat))
        tolerance = tolerance + self._unit * (np.abs(self._bias) + np.abs(self._residual))
        if self.composed:
            tolerance = tolerance + _rounding(self._z - self._residual, self.stored)
            if self.residual is not None:
                tolerance = tolerance + _rounding(self._z, self.stored)
        return tolerance

    @cached_property
    def output(self) -> Array:
        """The pre-activation's tolerance through the activation, whose own arithmetic takes a few u."""
        y = activate(self._z, self.activation)
        tolerance = CURVES[self.activation].steepest * self.pre_activation
        if self.activation is not None:
            tolerance = tolerance + 4 * self._unit * np.maximum(np.abs(y), np.abs(self._z))
        return tolerance + _rounding(np.abs(y) + tolerance, self.stored)

    # Gradients

    @cached_property
    def _grad_y(self) -> Array:
        assert self.grad_output is not None, "Tolerances: grad_output expected an array, got None"
        return self.grad_output

    @cached_property
    def _grad_z(self) -> Array:
        return self._grad_y * activation_derivative(self._z, self.activation)

    @cached_property
    def _grad_z_tolerance(self) -> Array:
        """What the error of the pre-activation makes of its own gradient; none without an activation."""
        curve = CURVES[self.activation]
        if self.activation is None:
            return np.zeros_like(self._z)
        tolerance = curve.bend * self.pre_activation + 8 * self._unit
        for corner in curve.corners:
            tolerance = tolerance + curve.jump * (np.abs(self._z - corner) <= self.pre_activation)
        if self.composed:
            # sigmoid and tanh take their slope from the stored y: |∂slope/∂y| is 1 and 2 at most
            tolerance = tolerance + 2 * _rounding(activate(self._z, self.activation), self.stored)
        tolerance = tolerance * np.abs(self._grad_y)
        return tolerance + _rounding(self._grad_z, self.stored) if self.composed else tolerance

    @cached_property
    def _grad_z_bound(self) -> Array:
        """How large the computed gradient of the pre-activation may be."""
        return np.abs(self._grad_z) + self._grad_z_tolerance

    @cached_property
    def grad_bias(self) -> Array:
        """Scale: Σ |grad_z|."""
        tolerance = MARGIN * self._unit * channel_sum(self._grad_z_bound)
        tolerance = tolerance + channel_sum(self._grad_z_tolerance)
        return tolerance + _rounding(np.abs(channel_sum(self._grad_z)) + tolerance, self.parameters)

    @cached_property
    def grad_weight(self) -> Array:
        """Scale: Σ |grad_z| · (1 + |x_hat|)."""
        size = np.abs(self._x_hat)
        tolerance = MARGIN * self._unit * self.kappa * channel_sum(self._grad_z_bound * (1 + size))
        tolerance = tolerance + channel_sum(self._grad_z_tolerance * size)
        exact = np.abs(channel_sum(self._grad_z * self._x_hat))
        return tolerance + _rounding(exact + tolerance, self.parameters)

    @cached_property
    def grad_input(self) -> Array:
        """Scale: |weight| · invstd · max|grad_z| · (1 + |x_hat|), the maximum over the channel."""
        size, scale = np.abs(self._x_hat), self._weight * self._invstd
        others = tuple(d for d in range(self.x.ndim) if d != 1)
        largest: Array = self._grad_z_bound.max(axis=others, keepdims=True)
        tolerance: Array = self._arithmetic * largest * (1 + size) + self._grad_z_tolerance
        exact = self._grad_z
        if self.training:
            tolerance = tolerance + self._mean(self._grad_z_tolerance)
            tolerance = tolerance + size * self._mean(self._grad_z_tolerance * size)
            exact = exact - self._mean(exact) - self._x_hat * self._mean(exact * self._x_hat)
        tolerance = np.abs(scale) * tolerance
        return tolerance + _rounding(np.abs(scale * exact) + tolerance, self.stored)

    @cached_property
    def grad_residual(self) -> Array:
        """The pre-activation's gradient itself."""
        tolerance = self._grad_z_tolerance + self._unit * np.abs(self._grad_z)
        return tolerance + _rounding(np.abs(self._grad_z) + tolerance, self.stored)


def running_tolerance(
    tolerance: Array, old: Array, new_tolerance: Array, new: Array, momentum: float, dtype: torch.dtype
) -> Array:
    """Bound on (1 − momentum) · old + momentum · new: what the two bring along, and a few roundings.

    Args:
        tolerance: Of ``old``.
        old: Running mean or variance before the step, exact.
        new_tolerance: Of ``new``; `Tolerances.batch_mean` or `batch_var`.
        new: The batch's mean or unbiased variance, exact.
        momentum: Weight of ``new``.
        dtype: Of the running statistics.
    """
    brought = (1 - momentum) * tolerance + momentum * new_tolerance
    added = (1 - momentum) * np.abs(old) + momentum * np.abs(new)
    return brought + 2 * torch.finfo(dtype).eps * added


def _rounding(values: Array, dtype: torch.dtype) -> Array:
    """Largest error of rounding to nearest: half a unit in the last place, subnormals included."""
    info = torch.finfo(dtype)
    error: Array = 0.5 * info.eps * np.maximum(np.abs(values), info.smallest_normal)
    return error


def assert_close(actual: Any, expected: ArrayLike, tolerance: ArrayLike, what: str) -> None:
    """Fail unless ``actual`` is within ``tolerance`` of ``expected`` everywhere.

    Args:
        actual: Tensor or array of the implementation's results.
        expected: The oracle's, same shape.
        tolerance: Bound on the difference, broadcast to that shape.
        what: Name of the result, for the message.

    Raises:
        AssertionError: Names the worst element, both values and how many tolerances they are apart.
    """
    if isinstance(actual, torch.Tensor):
        actual = actual.detach().to("cpu", torch.float64).numpy()
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape expected {expected.shape}, got {actual.shape}"
    tolerance = np.broadcast_to(np.asarray(tolerance, np.float64), expected.shape)
    wrong = ~(np.abs(actual - expected) <= tolerance)  # NaN is wrong too
    if not wrong.any():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(actual - expected) / tolerance
    ratio = np.where(wrong, np.nan_to_num(ratio, nan=np.inf), 0)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    raise AssertionError(
        f"{what}: {int(wrong.sum())} of {wrong.size} elements out of tolerance; worst at {worst}: "
        f"expected {float(expected[worst])!r}, got {float(actual[worst])!r}, {ratio[worst]:.3g} times "
        f"the tolerance {tolerance[worst]:.3g}"
    )
