"""How the running statistics follow the batches, beside a fixed momentum."""

import dataclasses
from typing import ClassVar

from batchnorm.nn.statistics.base import Statistics

__all__ = ["Accumulated", "Cumulative", "Scheduled"]


@dataclasses.dataclass(frozen=True)
class Cumulative(Statistics):
    """The running statistics are the mean over all batches so far, whatever the layer's momentum."""

    choice: ClassVar[str] = "average"

    def is_idle(self, learns: bool) -> bool:
        """Always: the running statistics take it as momentum None."""
        return True


@dataclasses.dataclass(frozen=True)
class Scheduled(Statistics):
    """The momentum goes from ``start`` to ``end`` within so many batches, then stays.

    Args:
        start: Weight of the first batch, 0 to 1.
        end: Weight of each batch from number ``steps`` on, 0 to 1.
        steps: Batches until then, at least 1.
        shape: ``linear``, or ``geometric``: by the same factor at each batch.
    """

    choice: ClassVar[str] = "average"
    start: float
    end: float
    steps: int
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            self._within(name, 0, 1)
        if self.shape not in ("linear", "geometric"):
            raise ValueError(f"Scheduled: shape expected linear or geometric, got {self.shape!r}")
        if self.shape == "geometric" and not min(self.start, self.end) > 0:
            raise ValueError(
                f"Scheduled: start and end expected above 0 for geometric, got {self.start}, {self.end}"
            )
        self._whole("steps", 1)


@dataclasses.dataclass(frozen=True)
class Accumulated(Statistics):
    """The running statistics move once for ``batches`` batches, as one batch of all their values would.

    For gradient accumulation. Each batch is still normalized with its own statistics, so what the
    layers further on are given is not what one large batch would give them.

    Args:
        batches: Micro-batches in a step, at least 1.
    """

    choice: ClassVar[str] = "average"
    batches: int

    def __post_init__(self) -> None:
        self._whole("batches", 1)
