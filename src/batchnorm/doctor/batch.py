"""Batches of any kind: their samples, and batches made of some of them or of another input."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["head_of", "rows_of", "select", "with_head"]


def rows_of(batch: Any) -> int:
    """Length of the first tensor that has one; 0 where none is found."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((n for part in parts if (n := rows_of(part))), 0)


def select(batch: Any, rows: int, order: list[int]) -> Any:
    """The samples of these numbers, in this order, from a batch of so many rows.

    Example:
        >>> import torch
        >>> select({"x": torch.tensor([1, 2, 3]), "scale": torch.tensor(4)}, 3, [2, 0])
        {'x': tensor([3, 1]), 'scale': tensor(4)}
    """
    if isinstance(batch, Tensor):
        return batch[order] if batch.dim() and len(batch) == rows else batch
    if isinstance(batch, Mapping):
        return {key: select(value, rows, order) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return _like(batch, [select(value, rows, order) for value in batch])
    return batch


def head_of(batch: Any) -> Any:
    """What a batch begins with, or the batch if it is no sequence; None of an empty one."""
    return next(iter(batch), None) if isinstance(batch, tuple | list) else batch


def with_head(batch: Any, head: Any) -> Any:
    """The batch with another beginning."""
    return _like(batch, [head, *batch[1:]]) if isinstance(batch, tuple | list) else head


def _like(batch: Sequence[Any], values: list[Any]) -> Any:
    named = hasattr(batch, "_fields")
    return type(batch)(*values) if named else type(batch)(values)  # type: ignore[call-arg]
