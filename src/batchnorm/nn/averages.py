"""How a layer's running statistics follow the batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm.nn.statistics import Accumulated, Cumulative, Scheduled
from batchnorm.ops import schedules
from batchnorm.ops.backend import is_transformed, resolve_backend
from batchnorm.ops.moments import Moments
from batchnorm.ops.running import batches_before, move_rows, outside_transforms, uncounted

__all__ = ["Pending", "follow", "is_repetition", "moved_in_vain"]


class Pending(NamedTuple):
    """Micro-batches that the running statistics have not followed yet.

    Attributes:
        batches: How many.
        moments: Of all their values, a row for each row of running statistics.
    """

    batches: int
    moments: Moments


def is_repetition() -> bool:
    """Whether this forward pass runs inside a backward pass: activation checkpointing repeats it there.

    A batch must not move the running statistics twice.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def moved_in_vain(layer: Any, input: Tensor, *running: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a repeated forward pass moves in the place of running statistics: copies, or none.

    Torch's kernel keeps the statistics that it moves for the backward pass, and checkpointing counts what is
    kept; ours keeps none.
    """
    if resolve_backend(layer.backend, input) != "torch":
        return (None,) * len(running)
    with torch.no_grad(), uncounted():
        return tuple(None if values is None else values.clone() for values in running)


def follow(layer: Any, moments: Moments, rows: Sequence[int] | None) -> None:
    """Move a layer's running statistics by one batch.

    Args:
        layer: With ``running_mean``, ``running_var``, ``num_batches_tracked``, ``momentum``, ``stats``,
            ``nonfinite`` and ``pending``.
        moments: Of the parts of the batch.
        rows: The row that each part moves; None for the only one.

    Raises:
        RuntimeError: If one of the batches that `Accumulated` takes together is inside a `vmap`.
    """
    if layer.nonfinite == "skip":
        moments = moments.finite()

    def move(*values: Tensor) -> None:
        _move(layer, Moments(*values), rows)

    with torch.no_grad(), uncounted():
        outside_transforms(move, layer.running_mean, *moments)


def _move(layer: Any, moments: Moments, rows: Sequence[int] | None) -> None:
    accumulated = layer.stats.find(Accumulated)
    if accumulated is not None:
        pending = _joined(layer.pending, moments.in_rows(rows, len(layer.running_mean)))
        if pending.batches < accumulated.batches:
            if is_transformed() and torch._C._functorch.is_functorch_wrapped_tensor(pending.moments.mean):
                raise RuntimeError(
                    f"batch_norm: {layer.title()} expected no vmap around batches of {accumulated!r}, got one"
                )
            layer.pending = pending
            return
        moments, layer.pending = pending.moments, None
        rows = None if rows is None else range(len(layer.running_mean))
    running = layer.running_mean, layer.running_var, layer.num_batches_tracked
    move_rows(*running, moments, rows, _momentum(layer, rows))


def _joined(pending: Pending | None, moments: Moments) -> Pending:
    if pending is None:
        return Pending(1, moments)
    both = (torch.stack(pair) for pair in zip(pending.moments, moments, strict=True))
    return Pending(pending.batches + 1, Moments(*both).merged())


def _momentum(layer: Any, rows: Sequence[int] | None) -> Tensor | float | None:
    """Weight of a new batch: a number, (P, 1) or (1, 1), or None for the mean over all batches."""
    # torch.optim.swa_utils.update_bn asks for the mean over all batches by setting momentum to None
    if layer.stats.find(Cumulative) is not None or layer.momentum is None:
        return None
    scheduled = layer.stats.find(Scheduled)
    if scheduled is None:
        momentum: float | None = layer.momentum
        return momentum
    step = batches_before(layer.num_batches_tracked, rows)
    if scheduled.shape == "linear":
        return schedules.linear(scheduled.start, scheduled.end, 0, scheduled.steps, step)
    return schedules.geometric(scheduled.start, scheduled.end, scheduled.steps, step)
