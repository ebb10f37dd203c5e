"""Whether two models give the same outputs: the same input, the same random numbers, one number out."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.surgery.borrow import borrowed
from batchnorm.surgery.feed import call_on, own_copy
from batchnorm.surgery.layers import expect_initialized

__all__ = [
    "TOLERANCES",
    "check_difference",
    "expect_tolerance",
    "largest_difference",
    "outputs_of",
    "tensors_in",
]

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""By dtype of the output, or of the parts of a complex one: the relative difference rounding explains."""


def outputs_of(model: nn.Module, example: Any, seed: int = 0) -> list[Tensor]:
    """All tensors that a model predicts, on the same random numbers each time.

    Args:
        model: Left as it was.
        example: A tensor, a tuple of arguments, or a dict of keyword arguments; left too, should the model
            write into its input.
        seed: Of torch's random numbers.

    Raises:
        ValueError: If there is no tensor in what the model returns, or it has lazy parameters.
    """
    expect_initialized("fold", model)
    with borrowed(model):
        torch.manual_seed(seed)
        output = call_on(model, own_copy(example))
    tensors = list(tensors_in(output))
    if not tensors:
        raise ValueError(f"fold: model expected to return tensors, got {type(output).__name__}")
    return tensors


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a model takes or returns, in order: in mappings, sequences, dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors_in(tuple(vars(value).values()))


def largest_difference(before: Tensor, after: Tensor) -> float:
    """Largest difference over the largest value, ``max|a - b| / max|a|``, of the finite values.

    Infinite if the shapes differ, or the places where the values are NaN or infinite.
    """
    if before.shape != after.shape or before.is_complex() != after.is_complex():
        return math.inf
    a, b = _parts(before), _parts(after)
    finite = a.isfinite()
    if not torch.equal(a[~finite].nan_to_num(0), b[~finite].nan_to_num(0)) or not b[finite].isfinite().all():
        return math.inf
    if not finite.any():
        return 0.0
    difference, size = ((a - b)[finite].abs().max().item(), a[finite].abs().max().item())
    return difference / size if size else difference


def _parts(values: Tensor) -> Tensor:
    values = values.detach().cpu()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    return values.to(torch.float64)


def expect_tolerance(op: str, tolerance: float | None) -> None:
    """Refuse a tolerance that no difference can meet; ``op`` asks, for the error."""
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"{op}: tolerance expected a number >= 0, got {tolerance}")


def check_difference(
    op: str,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    tolerance: float | None,
    again: Callable[[], Sequence[Tensor]] | None = None,
) -> float:
    """Largest of the outputs' differences, each at most the tolerance.

    Args:
        op: Who asks, for the error.
        before: Outputs expected.
        after: Outputs got.
        tolerance: For `largest_difference`; None for that of `TOLERANCES`.
        again: Gives the outputs of another run of the model that gave those ``before``. Asked for where
            there is a difference, so that the error can say whether the model itself is random.

    Raises:
        ValueError: If a difference is above the tolerance, the number of outputs another, or no output has
            a finite number, so that there is nothing to compare.
    """
    told = tolerance == math.inf or any(_parts(values).isfinite().any() for values in before)
    if not told and any(values.numel() for values in before):
        raise ValueError(f"{op}: model expected to return finite numbers, got only NaN or infinite ones")
    if len(before) != len(after):
        raise ValueError(f"{op}: model expected {len(before)} outputs, got {len(after)}")
    largest = 0.0
    for a, b in zip(before, after, strict=True):
        difference = largest_difference(a, b)
        allowed = TOLERANCES.get(a.dtype.to_real(), 0.0) if tolerance is None else tolerance
        if not difference <= allowed:
            random = again is not None and _differ(before, again(), tolerance)
            hint = "; the model itself differs from run to run" if random else ""
            raise ValueError(
                f"{op}: difference expected at most {allowed:.3g} of the largest output, got "
                f"{difference:.3g}{hint}"
            )
        largest = max(largest, difference)
    return largest


def _differ(before: Sequence[Tensor], after: Sequence[Tensor], tolerance: float | None) -> bool:
    try:
        check_difference("", before, after, tolerance)
    except ValueError:
        return True
    return False
