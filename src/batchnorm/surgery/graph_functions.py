"""What the code of a fused module calls beside torch."""

import operator
from typing import Any

import torch
from torch import Tensor

__all__ = ["in_one_dtype", "in_place"]


def in_place(name: str, value: Any, other: Any) -> Any:
    """``value += other`` and its kin.

    Args:
        name: Of the function in `operator`, such as ``iadd``.
        value: Changed if it is a tensor; a number stays what it was for others who hold it.
        other: The right-hand side.

    Returns:
        What the name on the left is bound to afterwards.
    """
    return getattr(operator, name)(value, other)


def in_one_dtype(input: Tensor, residual: Tensor | None, into: str | None) -> tuple[Tensor, Tensor | None]:
    """Input and residual in the dtype of their sum; under autocast they may come in two.

    Args:
        input: Of batch norm.
        residual: Of a shape that broadcasts to the input's; or None.
        into: ``output`` or ``residual`` if the sum is written into batch norm's output or the residual.
    """
    if residual is None:
        return input, None
    dtypes = {"output": input.dtype, "residual": residual.dtype}
    dtype = torch.promote_types(*dtypes.values()) if into is None else dtypes[into]
    return input.to(dtype), residual.to(dtype).expand_as(input)
