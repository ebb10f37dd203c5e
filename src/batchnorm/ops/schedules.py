"""Numbers that change with the batches seen, computed where the counter lies."""

import math

import torch
from torch import Tensor

__all__ = ["geometric", "linear"]


def linear(first: float, last: float, start: int, end: int, step: Tensor) -> Tensor:
    """``first`` up to batch ``start``, then on a line to ``last`` at batch ``end``; float64.

    Args:
        first: As said; finite.
        last: May be infinite; then so is every value after ``start``.
        start: As said.
        end: ``start`` or later.
        step: Batches before this one, int64, any shape.
    """
    # torch.compile cannot trace math.isinf of a number that varies
    if abs(last) == math.inf or end == start:
        return torch.where(step < start, step.new_full((), first, dtype=torch.float64), last)
    return first + (last - first) * ((step.double() - start) / (end - start)).clamp(0, 1)


def geometric(first: float, last: float, end: int, step: Tensor) -> Tensor:
    """From ``first`` at batch 0 to ``last`` at batch ``end``, by the same factor at each batch; float64."""
    return linear(math.log(first), math.log(last), 0, end, step).exp()
