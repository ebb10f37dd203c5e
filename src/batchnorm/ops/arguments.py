"""What `batch_norm` refuses, and the words it refuses it with.

Exception types are torch's own for the same misuse.
"""

import math
from typing import NoReturn

import torch
from torch import Tensor

__all__ = ["NONFINITE", "check_arguments", "refuse_nonfinite", "refuse_one_value"]

NONFINITE = ("propagate", "skip", "raise")

_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_arguments(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
    nonfinite: str,
) -> None:
    """Raise unless `batch_norm` has an answer for these arguments.

    Raises:
        ValueError: Rank below 2, ``eps`` or ``nonfinite`` out of range, or no statistics to predict with.
        NotImplementedError: The input is not floating.
        RuntimeError: A size or dtype does not fit the input's.
        TypeError: The residual is no tensor.
    """
    if input.dim() < 2:
        raise ValueError(f"batch_norm: input expected shape (N, C, *spatial), got {_shape(input)}")
    if input.dtype not in _FLOATING:
        raise NotImplementedError(
            f"batch_norm: input expected float32, bfloat16, float16 or float64, got {_name(input.dtype)}"
        )
    if training:
        # written so that eps = NaN is refused too
        if not eps > 0:
            raise ValueError(f"batch_norm: eps must be positive in training, expected > 0, got {eps}")
    else:
        if not eps >= 0:
            raise ValueError(f"batch_norm: eps must be non-negative, expected >= 0, got {eps}")
        if running_mean is None or running_var is None:
            raise ValueError(
                "batch_norm: running_mean and running_var expected tensors in prediction, got None"
            )
    if eps == math.inf:
        raise ValueError("batch_norm: eps expected a finite number, got inf")
    if nonfinite not in NONFINITE:
        raise ValueError(f"batch_norm: nonfinite expected one of {', '.join(NONFINITE)}, got {nonfinite!r}")
    channels, dtype = (input.shape[1],), input.dtype
    for values in (running_mean, running_var, weight, bias):
        if values is not None and (
            values.shape != channels
            or (values.dtype != dtype and (values.dtype != torch.float32 or dtype == torch.float64))
        ):
            named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
            _refuse(input, next(name for name, value in named.items() if value is values), values)
    if residual is not None and not isinstance(residual, Tensor):
        raise TypeError(f"batch_norm: residual expected a tensor, got {type(residual).__name__}")
    if residual is not None and (residual.shape != input.shape or residual.dtype != input.dtype):
        raise RuntimeError(
            f"batch_norm: residual expected shape {_shape(input)} and {_name(input.dtype)}, "
            f"got {_shape(residual)} and {_name(residual.dtype)}"
        )


def refuse_one_value(input: Tensor) -> NoReturn:
    """Raise for a training batch that has one value per channel, which would always become the bias."""
    raise ValueError(
        f"batch_norm: input expected more than 1 value per channel in training, got shape {_shape(input)}"
    )


def refuse_nonfinite(mean: Tensor, var: Tensor) -> None:
    """Raise FloatingPointError if a statistic, of shape ``(…, C)``, is NaN or infinite."""
    finite = torch.isfinite(mean) & torch.isfinite(var)
    if not finite.all():
        wrong = int((~finite).sum())
        raise FloatingPointError(
            f"batch_norm: input expected finite statistics, got NaN or infinity in {wrong} of "
            f"{finite.numel()} channels; the running statistics are unchanged"
        )


def _refuse(input: Tensor, name: str, values: Tensor) -> NoReturn:
    if values.dim() != 1:
        raise RuntimeError(
            f"batch_norm: {name} expected shape ({input.shape[1]},), as the input has channels, "
            f"got {_shape(values)}"
        )
    if values.shape != input.shape[1:2]:
        raise RuntimeError(
            f"batch_norm: input expected {values.numel()} channels, the size of {name}, "
            f"got {input.shape[1]} in shape {_shape(input)}"
        )
    raise RuntimeError(
        f"batch_norm: {name} expected {_name(input.dtype)} like the input or float32 beside a "
        f"half-precision one, got {_name(values.dtype)}"
    )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
