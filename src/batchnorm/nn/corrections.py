"""The corrections of batch renormalization, and their memory for forward passes that are repeated."""

import collections
from typing import Any

import torch
from torch import Tensor

from batchnorm.nn.averages import is_repetition
from batchnorm.nn.statistics import Renorm
from batchnorm.ops import renorm, schedules

__all__ = ["corrected", "correction_memory"]

Correction = tuple[Tensor, Tensor, Tensor]


def correction_memory() -> collections.deque[Correction]:
    """For mean, r and d of the last forward passes in training.

    Activation checkpointing repeats a forward pass after the running statistics have moved, and must
    find the r and d of the first time. So many micro-batches may be under way.
    """
    return collections.deque(maxlen=64)


def corrected(
    layer: Any,
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    rows: tuple[int, ...] | None,
) -> tuple[Tensor, Tensor]:
    """R and d of a batch, see `batchnorm.ops.renorm`; all statistics are (P, C) or (1, C).

    Raises:
        RuntimeError: If a repeated forward pass is not one of those remembered.
    """
    stats, tracked = layer.stats.find(Renorm), layer.num_batches_tracked
    if is_repetition():
        for known, r, d in layer.corrections:
            if torch.equal(known, mean):
                return r, d
        raise RuntimeError(
            f"batch_norm: {layer.title()} expected a forward pass repeated in a backward pass to have the "
            f"statistics of one of the last {len(layer.corrections)}, got others"
        )
    step = tracked if rows is None else tracked[list(rows)][:, None]
    start, r_end, d_end = stats.moments
    r_max = schedules.linear(1.0, stats.r_max, start, r_end, step)
    d_max = schedules.linear(0.0, stats.d_max, start, d_end, step)
    r, d = renorm.correction(mean, var, running_mean, running_var, layer.eps, r_max, d_max)
    if not torch.compiler.is_compiling():
        layer.corrections.append((mean, r, d))
    return r, d
