"""Several rows of running statistics in one layer, which share weight and bias."""

import dataclasses
from typing import ClassVar

from batchnorm.nn.statistics.base import Statistics

__all__ = ["Domains", "PerStep", "Rows"]


@dataclasses.dataclass(frozen=True)
class Rows(Statistics):
    """Running statistics of shape ``(number, C)`` and a counter ``(number,)``.

    In training, samples of one row that are a single value per channel have no statistics of their own:
    they are normalized with the running ones of the row, which do not move.
    """

    choice: ClassVar[str] = "rows"

    @property
    def number(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    def is_idle(self, learns: bool) -> bool:
        """Never: prediction has to choose a row."""
        return False


@dataclasses.dataclass(frozen=True)
class Domains(Rows):
    """Statistics of their own for each domain: ``layer(x, domain=2)``, or a domain for each sample.

    A single value per channel is normalized with the running statistics of its domain.

    Args:
        n: Number of domains, at least 1.

    References:
        Chang et al. 2019, arXiv:1906.03950, section 3.2; here weight and bias are shared.
    """

    n: int

    def __post_init__(self) -> None:
        self._whole("n", 1)

    @property
    def number(self) -> int:
        """Number of domains."""
        return self.n


@dataclasses.dataclass(frozen=True)
class PerStep(Rows):
    """Statistics of their own for each time step: ``layer(x, step=t)``.

    A single value per channel is normalized with the running statistics of its step.

    Args:
        max_steps: Time steps, at least 1.
        beyond: What a later step does: ``raise``, or share the statistics of the ``last``.

    References:
        Cooijmans et al. 2016, arXiv:1603.09025, section 3.
    """

    max_steps: int
    beyond: str = "raise"

    def __post_init__(self) -> None:
        self._whole("max_steps", 1)
        if self.beyond not in ("raise", "last"):
            raise ValueError(f"PerStep: beyond expected raise or last, got {self.beyond!r}")

    @property
    def number(self) -> int:
        """Number of time steps."""
        return self.max_steps
