"""The corrections of batch renormalization, and their memory for forward passes that are repeated."""

import collections
import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor

from batchnorm.nn.averages import is_repetition
from batchnorm.nn.statistics import Renorm
from batchnorm.ops import renorm, schedules
from batchnorm.ops.backend import is_transformed
from batchnorm.ops.running import batches_before

__all__ = ["Correction", "corrected", "correction_memory"]


@dataclasses.dataclass
class Correction:
    """What a forward pass was corrected by.

    Attributes:
        statistics: Mean and variance of its batch, (2, P, C).
        rows: The row of running statistics of each part.
        r: (P, C).
        d: (P, C).
        repeated: A backward pass has had it.
    """

    statistics: Tensor
    rows: tuple[int, ...] | None
    r: Tensor
    d: Tensor
    repeated: bool = False

    def is_of(self, statistics: Tensor, rows: tuple[int, ...] | None) -> bool:
        """Whether these are the statistics, in the same rows; NaN is itself here."""
        known = self.statistics
        alike = self.rows == rows and known.shape == statistics.shape
        return alike and torch.allclose(known, statistics, rtol=0, atol=0, equal_nan=True)


def correction_memory() -> collections.deque[Correction]:
    """For the corrections of the last forward passes in training, the newest first.

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
    stats = layer.stats.find(Renorm)
    if is_repetition():
        return _remembered(layer, torch.stack((mean, var)), rows)
    step = batches_before(layer.num_batches_tracked, rows)
    start, r_end, d_end = stats.moments
    r_max = schedules.linear(1.0, stats.r_max, start, r_end, step)
    d_max = schedules.linear(0.0, stats.d_max, start, d_end, step)
    r, d = renorm.correction(mean, var, running_mean, running_var, layer.eps, r_max, d_max)
    if not torch.compiler.is_compiling() and not is_transformed():
        layer.corrections.appendleft(Correction(torch.stack((mean, var)), rows, r, d))
    return r, d


def _remembered(layer: Any, statistics: Tensor, rows: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    # a backward pass goes from the last forward pass to the first; one with a kept graph goes again
    for known in sorted(layer.corrections, key=operator.attrgetter("repeated")):
        if known.is_of(statistics, rows):
            known.repeated = True
            return known.r, known.d
    raise RuntimeError(
        f"batch_norm: {layer.title()} expected a forward pass repeated in a backward pass to have the "
        f"statistics of one of the last {len(layer.corrections)}, got others"
    )
