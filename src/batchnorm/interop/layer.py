"""What both conversions share: our layer from foreign numbers, and ours as numbers."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["BatchNorm", "from_numbers", "old_weight", "to_numbers"]

BatchNorm = nn.modules.batchnorm._BatchNorm

_KINDS: dict[int, type[BatchNorm1d | BatchNorm2d | BatchNorm3d]] = {
    0: BatchNorm1d,
    1: BatchNorm1d,
    2: BatchNorm2d,
    3: BatchNorm3d,
}


def from_numbers(
    op: str, dims: int, momentum: float, eps: float, arrays: dict[str, Any], count: int | None
) -> BatchNorm1d | BatchNorm2d | BatchNorm3d:
    """Our layer in prediction mode.

    Args:
        op: Who asks, for errors.
        dims: Spatial dimensions, 0 to 3.
        momentum: Weight of the *old* statistics, as the others have it.
        eps: Added to the variance.
        arrays: ``(C,)`` each, by our names: ``running_mean``, ``running_var`` and, if the layer has
            them, ``weight`` and ``bias``.
        count: Values per channel in the batches of a biased variance; None to take it as it is.
    """
    if dims not in _KINDS:
        raise ValueError(f"{op}: dims expected 0, 1, 2 or 3, got {dims!r}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"{op}: momentum expected a number from 0 to 1, got {momentum}")
    _check_count(op, count)
    # torch knows not all dtypes of others, such as Flax's bfloat16
    tensors = {name: torch.from_numpy(np.array(values, np.float64)) for name, values in arrays.items()}
    channels = tensors["running_mean"].numel()
    for tensor in tensors.values():
        if tensor.shape != (channels,):
            raise ValueError(f"{op}: arrays expected shape ({channels},), got {tuple(tensor.shape)}")
    mean, var = tensors["running_mean"], tensors["running_var"]
    if not (mean.isfinite().all() and var.isfinite().all() and (var >= 0).all()):
        raise ValueError(f"{op}: statistics expected finite numbers and variances >= 0, got {mean}, {var}")
    if count is not None:
        var *= count / (count - 1)
    affine = "weight" in tensors or "bias" in tensors
    layer = _KINDS[dims](channels, eps, 1 - momentum, affine, bias="bias" in tensors)
    layer.load_state_dict(tensors, strict=False)  # a shift without scale leaves the weight 1
    return layer.eval()


def to_numbers(op: str, layer: BatchNorm, count: int | None) -> dict[str, NDArray[Any]]:
    """The layer's arrays by our names, without those that it does not have."""
    if not isinstance(layer, BatchNorm):
        raise ValueError(f"{op}: layer expected a batch norm, got {type(layer).__name__}")
    if layer.running_mean is None or layer.running_var is None or layer.running_mean.dim() != 1:
        raise ValueError(f"{op}: layer expected running statistics of shape (C,), got {layer}")
    _check_count(op, count)
    # by name: a subclass may hold more, and what is parametrized has its values nowhere else
    held = {name: getattr(layer, name) for name in ("weight", "bias", "running_mean", "running_var")}
    arrays = {name: _array(values) for name, values in held.items() if values is not None}
    if count is not None:
        arrays["running_var"] *= (count - 1) / count
    return arrays


def old_weight(op: str, layer: BatchNorm) -> float:
    """Momentum as the weight of the old statistics."""
    if layer.momentum is None:
        raise ValueError(f"{op}: momentum expected a number, got None, the mean over all batches")
    return 1 - layer.momentum


def _check_count(op: str, count: int | None) -> None:
    if count is not None and count < 2:
        raise ValueError(f"{op}: count expected at least 2 values per channel, got {count}")


def _array(values: Tensor) -> NDArray[Any]:
    # NumPy has no bfloat16
    values = values.detach().float() if values.dtype == torch.bfloat16 else values.detach()
    array: NDArray[Any] = values.cpu().numpy().copy()
    return array
