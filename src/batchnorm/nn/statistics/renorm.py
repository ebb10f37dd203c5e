"""A batch's statistics corrected towards the running ones."""

import dataclasses
import operator
from typing import Any, ClassVar

from batchnorm.nn.statistics.base import Statistics

__all__ = ["Renorm"]


@dataclasses.dataclass(frozen=True)
class Renorm(Statistics):
    """The batch's statistics corrected towards the running ones, by constants kept within limits.

    Prediction is that of `Batch`. With limits 1 and 0 so is training, to the last bit.

    Args:
        r_max: The spread is corrected by a factor of at most this and at least its inverse; 1 or more.
        d_max: The mean is corrected by at most so many standard deviations; 0 or more.
        warmup: Batches that are normalized as by `Batch` first. Then ``r_max`` rises on a line from 1 until
            batch 8 · ``warmup`` and ``d_max`` from 0 until 5 · ``warmup``, the paper's proportions; or
            three numbers of batches for these three moments.

    References:
        Ioffe 2017, arXiv:1702.03275, Algorithm 1 and section 4 (5,000, 40,000 and 25,000 batches).
    """

    choice: ClassVar[str] = "correction"
    r_max: float = 3.0
    d_max: float = 5.0
    warmup: int | tuple[int, int, int] = 0

    def __post_init__(self) -> None:
        self._within("r_max", 1)
        self._within("d_max", 0)
        given: Any = self.warmup
        try:
            several = isinstance(given, tuple | list)
            warmup = tuple(map(operator.index, given)) if several else operator.index(given)
            object.__setattr__(self, "warmup", warmup)  # frozen
            start, r_end, d_end = self.moments
        except (TypeError, ValueError):
            raise ValueError(f"Renorm: warmup expected an integer or three, got {self.warmup!r}") from None
        if not 0 <= start <= min(r_end, d_end):
            raise ValueError(f"Renorm: warmup expected 0 <= start <= ends, got {self.warmup}")

    @property
    def moments(self) -> tuple[int, int, int]:
        """The batches at which the limits begin to rise, and at which r_max and d_max have risen."""
        if isinstance(self.warmup, int):
            return self.warmup, 8 * self.warmup, 5 * self.warmup
        return self.warmup

    def is_idle(self, learns: bool) -> bool:
        """In prediction, and if nothing may be corrected."""
        return not learns or (self.r_max == 1 and self.d_max == 0)
