"""What both conversions share: our layer from foreign numbers, and ours as numbers."""

import math
import operator
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.statistics import Batch, Frozen

__all__ = ["BatchNorm", "from_numbers", "old_weight", "to_numbers"]

BatchNorm = nn.modules.batchnorm._BatchNorm

_KINDS: dict[int, type[BatchNorm1d | BatchNorm2d | BatchNorm3d]] = {
    0: BatchNorm1d,
    1: BatchNorm1d,
    2: BatchNorm2d,
    3: BatchNorm3d,
}


def from_numbers(
    op: str,
    dims: int,
    momentum: float,
    epsilon: float,
    arrays: Mapping[str, Any],
    names: Mapping[str, str],
    count: int | None,
    frozen: bool = False,
) -> BatchNorm1d | BatchNorm2d | BatchNorm3d:
    """Our layer in prediction mode.

    Args:
        op: Who asks, for errors.
        dims: Spatial dimensions, 0 to 3.
        momentum: Weight of the *old* statistics, as the others have it.
        epsilon: Added to the variance.
        arrays: ``(C,)`` each, by the others' names: both statistics, and what the layer has of the scale
            and the shift.
        names: The others' name of each of ours.
        count: Values per channel in the batches of a biased variance; None to take it as it is.
        frozen: Whether training does not change it either.
    """
    if dims not in _KINDS:
        raise ValueError(f"{op}: dims expected 0, 1, 2 or 3, got {dims!r}")
    if not (_is_number(momentum) and 0 <= momentum <= 1):
        raise ValueError(f"{op}: momentum expected a number from 0 to 1, got {momentum!r}")
    if not (_is_number(epsilon) and 0 <= epsilon < math.inf):
        raise ValueError(f"{op}: epsilon expected a number of at least 0, got {epsilon!r}")
    held = {ours: _numbers(op, name, arrays[name]) for ours, name in names.items() if name in arrays}
    shapes = {names[ours]: values.shape for ours, values in held.items()}
    if len(set(shapes.values())) > 1 or held["running_mean"].ndim != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{op}: arrays expected one shape (C,), got {found}")
    if count is not None:
        count = _checked_count(op, count)
        held["running_var"] = held["running_var"] * count / (count - 1)
    # one that has a shift without a scale has a weight here too; it stays 1
    affine, constant = "weight" in held or "bias" in held, "weight" not in held
    stats = Frozen(affine=True) if frozen else Batch()
    channels = len(held["running_mean"])
    layer = _KINDS[dims](channels, epsilon, _complement(momentum), affine, bias="bias" in held, stats=stats)
    layer.load_state_dict({ours: torch.from_numpy(values) for ours, values in held.items()}, strict=False)
    for ours in held:
        _check_finite(op, names[ours], getattr(layer, ours), 0 if ours == "running_var" else -math.inf)
    if affine and constant:
        layer.weight.requires_grad_(False)
    return layer.eval()


def to_numbers(op: str, layer: BatchNorm, count: int | None) -> dict[str, NDArray[Any]]:
    """The layer's arrays by our names, without those that it does not have.

    A weight that is 1 and asks for no gradient, beside a bias, is how a layer without scale looks here.
    """
    if not isinstance(layer, BatchNorm):
        raise ValueError(f"{op}: layer expected a batch norm, got {type(layer).__name__}")
    # by name: a subclass may hold more, and what is parametrized has its values nowhere else
    held = {name: getattr(layer, name) for name in ("weight", "bias", "running_mean", "running_var")}
    if any(
        nn.parameter.is_lazy(values) or (values is not None and values.is_meta) for values in held.values()
    ):
        raise ValueError(f"{op}: layer expected values, got {layer} without")
    mean, var, weight = held["running_mean"], held["running_var"], held["weight"]
    if mean is None or var is None or mean.dim() != 1:
        raise ValueError(f"{op}: layer expected running statistics of shape (C,), got {layer}")
    if held["bias"] is not None and weight is not None and not weight.requires_grad and (weight == 1).all():
        held["weight"] = None
    arrays = {name: _array(values) for name, values in held.items() if values is not None}
    if count is not None:
        count = _checked_count(op, count)
        arrays["running_var"] *= (count - 1) / count
    return arrays


def old_weight(op: str, layer: BatchNorm) -> float:
    """Momentum as the weight of the old statistics."""
    if layer.momentum is None:
        raise ValueError(f"{op}: momentum expected a number, got None, the mean over all batches")
    return _complement(layer.momentum)


def _complement(momentum: float) -> float:
    """1 − momentum in the decimals in which people write it: .1 and .9 belong together."""
    return float(1 - Decimal(str(momentum)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _checked_count(op: str, count: Any) -> int:
    try:
        number = operator.index(count)
    except TypeError:
        number = 0
    if number < 2:
        raise ValueError(f"{op}: count expected at least 2 values per channel, got {count!r}")
    return number


def _numbers(op: str, name: str, values: Any) -> NDArray[np.float64]:
    """Float64: torch knows not all dtypes of others, such as Flax's bfloat16."""
    try:
        if not np.iscomplexobj(values):
            return np.array(values, np.float64)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{op}: {name} expected an array of real numbers, got {type(values).__name__}")


def _check_finite(op: str, name: str, values: Tensor, least: float) -> None:
    wrong = ~(values.isfinite() & (values >= least))
    if wrong.any():
        c = int(wrong.nonzero()[0])
        wanted = "finite numbers" if least else "finite numbers of at least 0"
        raise ValueError(f"{op}: {name} expected {wanted}, got {values[c].item()} in channel {c}")


def _array(values: Tensor) -> NDArray[Any]:
    # NumPy has no bfloat16
    values = values.detach().float() if values.dtype == torch.bfloat16 else values.detach()
    array: NDArray[Any] = values.cpu().numpy().copy()
    return array
