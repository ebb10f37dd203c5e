"""Which values the statistics of a batch come from."""

import dataclasses
from typing import Any, ClassVar, Self

from batchnorm.nn.statistics.base import Statistics
from batchnorm.ops.collective import is_alone

__all__ = ["Batch", "Frozen", "Ghost", "Synced"]


@dataclasses.dataclass(frozen=True)
class Batch(Statistics):
    """The mini-batch's own mean and variance per channel; the textbook's batch normalization.

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1.
    """

    choice: ClassVar[str] = "values"

    def is_idle(self, learns: bool) -> bool:
        """Always: it is what the others are compared with."""
        return True


@dataclasses.dataclass(frozen=True)
class Synced(Statistics):
    """The values of all processes of a group together, however many each has, even none.

    One collective in the forward pass and one in the backward pass. With one process it is `Batch`.

    Args:
        group: A process group, or None for all processes.
    """

    choice: ClassVar[str] = "values"
    excluded: ClassVar[tuple[str, ...]] = ("PerStep",)  # sequences end at different steps on different ranks
    group: Any = None

    def is_idle(self, learns: bool) -> bool:
        """In prediction, and where this process is alone."""
        return not learns or is_alone(self.group)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # a process group cannot be copied, and a model's copy belongs to the same processes
        return self

    def __reduce__(self) -> Any:
        if self.group is not None:
            raise TypeError("Synced: group expected None to be pickled, got a process group")
        return type(self), ()


@dataclasses.dataclass(frozen=True)
class Ghost(Statistics):
    """Virtual batches: each ``size`` samples one after the other are normalized on their own, in training.

    The running statistics move as if the virtual batches had come one after the other. Prediction
    is that of `Batch`.

    Args:
        size: Samples in a virtual batch, at least 2.
        last: What becomes of the samples left over: ``merge`` adds them to the virtual batch before,
            ``keep`` makes them one of their own, unless that would be a single value per channel.

    References:
        Hoffer, Hubara & Soudry 2017, arXiv:1705.08741, Algorithm 1.
    """

    choice: ClassVar[str] = "values"
    excluded: ClassVar[tuple[str, ...]] = ("Domains", "PerStep")
    size: int
    last: str = "merge"

    def __post_init__(self) -> None:
        self._whole("size", 2, " samples")
        if self.last not in ("merge", "keep"):
            raise ValueError(f"Ghost: last expected merge or keep, got {self.last!r}")


@dataclasses.dataclass(frozen=True)
class Frozen(Statistics):
    """The running statistics, as constants; ``.train()`` does not thaw them.

    Args:
        affine: Freeze weight and bias too: they ask for no gradient.
    """

    choice: ClassVar[str] = "values"
    excluded: ClassVar[tuple[str, ...]] = ("Renorm", "Cumulative", "Scheduled", "Accumulated")
    affine: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.affine, bool):
            raise ValueError(f"Frozen: affine expected True or False, got {self.affine!r}")
