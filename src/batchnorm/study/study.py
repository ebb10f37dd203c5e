"""What a study is: what it says before it runs, the trials it needs, and what it reads from them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from batchnorm.records import Figure
from batchnorm.study.results import Results
from batchnorm.study.trial import Trial

__all__ = ["Condition", "Plan", "Reading", "Study"]

Profile = Literal["quick", "full"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How thoroughly to look.

    Attributes:
        profile: ``quick`` (embedded sample) or ``full`` (all of Fashion-MNIST).
        seeds: Of each cell of a study.
        data: Which images there are: ``fashion-mnist`` or ``embedded-sample``.
    """

    profile: Profile
    seeds: tuple[int, ...]
    data: str

    @property
    def quick(self) -> bool:
        """Whether this is the quick profile."""
        return self.profile == "quick"


@dataclasses.dataclass(frozen=True)
class Condition:
    """One part of a claim that can be true or false, stated before the study runs.

    Attributes:
        name: Short, unique in its study.
        text: In words.
        side: Where the effect's whole interval must lie: ``above`` or ``below`` ``bound``.
        bound: The number.
        unit: Of the effect; ``×`` for a ratio, whose mean and interval are taken of logarithms.
        exact: The effect has no chance in it: every value must lie on the side.
    """

    name: str
    text: str
    side: Literal["above", "below"]
    bound: float = 0.0
    unit: str = ""
    exact: bool = False


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a study reads from its results.

    Attributes:
        effects: For each condition by name the effects, one a seed; empty where trials failed.
        figures: Charts.
        notes: Sentences made of the numbers.
        bounds: ``at least`` or ``at most`` for effects, by name, that something cut short.
    """

    effects: Mapping[str, Sequence[float]]
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    bounds: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
    """A claim and its measurement. All words are fixed before the first trial runs.

    Attributes:
        id: ``c01`` to ``c14``.
        name: What it is called on the command line.
        claim: What the textbook says.
        hypothesis: What that means for the trials.
        held_equal: What the compared trials share.
        measure: What is measured, and how.
        against: What would count against the claim.
        conditions: The claim, cut into parts; see `batchnorm.study.verdict`.
        trials: The trials of a plan.
        read: What their results say.
        alone: Its trials take times, so they run one after the other.
    """

    id: str
    name: str
    claim: str
    hypothesis: str
    held_equal: str
    measure: str
    against: str
    conditions: tuple[Condition, ...]
    trials: Callable[[Plan], Sequence[Trial]]
    read: Callable[[Results, Plan], Reading]
    alone: bool = False

    @property
    def title(self) -> str:
        """Identifier and name, which is also the directory's name."""
        return f"{self.id}-{self.name}"
