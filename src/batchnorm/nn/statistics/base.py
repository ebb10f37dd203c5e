"""What every kind of statistics is, and their sum."""

import dataclasses
import math
import numbers
import operator
from typing import ClassVar, TypeVar

__all__ = ["Statistics", "Sum"]

_Kind = TypeVar("_Kind", bound="Statistics")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Base of every kind of statistics.

    Attributes:
        choice: What a kind decides; a sum holds one kind for each choice at most.
        excluded: Kinds that this one leaves nothing to do, by their names.
    """

    choice: ClassVar[str]
    excluded: ClassVar[tuple[str, ...]] = ()

    def __add__(self, other: "Statistics") -> "Statistics":
        """Both kinds together.

        Raises:
            ValueError: If they decide the same, or one leaves the other nothing to do.
        """
        if not isinstance(other, Statistics):
            return NotImplemented
        for kind in self.kinds():
            for added in other.kinds():
                if kind.choice == added.choice or kind.excludes(added) or added.excludes(kind):
                    raise ValueError(f"stats: expected kinds that go together, got {kind!r} + {added!r}")
        return Sum((*self.kinds(), *other.kinds()))

    def kinds(self) -> tuple["Statistics", ...]:
        """The kinds that add up to this one."""
        return (self,)

    def is_idle(self, learns: bool) -> bool:
        """Whether a forward pass is that of `Batch`; ``learns``: it uses the batch's statistics."""
        return not learns

    def find(self, kind: type[_Kind]) -> _Kind | None:
        """The part of this that is of a kind, or None."""
        return next((found for found in self.kinds() if isinstance(found, kind)), None)

    def _whole(self, name: str, least: int, unit: str = "") -> None:
        """Make an attribute an int, as numbers of NumPy and of torch are not.

        Raises:
            ValueError: If it is not a whole number of at least ``least``.
        """
        given = getattr(self, name)
        try:
            value = operator.index(given)
        except TypeError:
            raise ValueError(f"{type(self).__name__}: {name} expected an integer, got {given!r}") from None
        if value < least:
            raise ValueError(f"{type(self).__name__}: {name} expected at least {least}{unit}, got {value}")
        object.__setattr__(self, name, value)  # frozen

    def _within(self, name: str, least: float, most: float = math.inf) -> None:
        """Check an attribute.

        Raises:
            ValueError: If it is not a number from ``least`` to ``most``.
        """
        value = getattr(self, name)
        if not (isinstance(value, numbers.Real) and least <= float(value) <= most):
            expected = f"at least {least}" if most == math.inf else f"{least} to {most}"
            raise ValueError(f"{type(self).__name__}: {name} expected {expected}, got {value!r}")

    def excludes(self, other: "Statistics") -> bool:
        """Whether ``other`` is of an excluded kind."""
        return type(other).__name__ in self.excluded


@dataclasses.dataclass(frozen=True, repr=False)
class Sum(Statistics):
    """Several kinds together; made by ``+``."""

    choice: ClassVar[str] = "everything"
    parts: tuple[Statistics, ...]

    def kinds(self) -> tuple[Statistics, ...]:
        """The kinds that were added."""
        return self.parts

    def is_idle(self, learns: bool) -> bool:
        """Whether all the kinds are."""
        return all(kind.is_idle(learns) for kind in self.parts)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))
