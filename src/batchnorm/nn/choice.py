"""What a call says of rows of running statistics, ``domain=`` and ``step=``, as plain numbers."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_domain", "as_step"]


def as_domain(domain: Any, samples: int) -> int | Tensor | None:
    """A domain as an int; domains of each sample, and None, as they are.

    Raises:
        ValueError: If it is neither a whole number nor a tensor.
    """
    # True would index as a mask does
    if domain is None or type(domain) is int or (isinstance(domain, Tensor) and domain.dim() > 0):
        return domain
    try:
        return operator.index(domain)
    except TypeError:
        expected = f"an integer or a tensor of {samples} integers"
        raise ValueError(f"batch_norm: domain expected {expected}, got {_found(domain)}") from None


def as_step(step: Any) -> int | list[int] | None:
    """A step as an int, or sizes of steps as ints; None as it is.

    Raises:
        ValueError: If it is neither, or a size is negative.
    """
    if step is None or isinstance(step, int):
        return step
    try:
        if not isinstance(step, Iterable) or (isinstance(step, Tensor) and step.dim() == 0):
            return operator.index(step)
        given = step.tolist() if isinstance(step, Tensor) else step
        # torch.export would take the index of a symbol for a constant
        sizes: list[Any] = [s if isinstance(s, torch.SymInt) else operator.index(s) for s in given]
    except TypeError:
        expected = "an integer or sizes of the steps"
        raise ValueError(f"batch_norm: step expected {expected}, got {_found(step)}") from None
    if min(sizes, default=0) < 0:
        raise ValueError(f"batch_norm: step expected sizes of at least 0, got {min(sizes)}")
    return sizes


def _found(value: Any) -> str:
    """What there is instead, in one line."""
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
