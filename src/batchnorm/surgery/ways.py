"""All ways through a forward: optional arguments given or not, questions about values answered yes and no.

torch.fx runs a forward once, on placeholders, and so sees one way. ``if mask is None`` asks for no value, and
only one of its branches would be seen; ``if x.sum() > 0`` asks for one, and would be the end.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from batchnorm.surgery.answering import Answering

__all__ = ["Way", "ways_through"]

MOST_PATHS = 32
_GIVEN = object()


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """One way through a forward.

    Attributes:
        given: Optional arguments that are fixed, and at what; the others are given.
        answers: To the questions about values that the code asked.
        graph: What is done on it.
    """

    given: Mapping[str, object]
    answers: tuple[bool, ...]
    graph: fx.Graph


Attempt = Callable[[Mapping[str, object], Sequence[bool]], tuple[Answering, fx.Graph | Exception]]


def ways_through(module: nn.Module, attempt: Attempt, *, may_refuse: bool = False) -> Iterable[Way]:
    """Trace a forward on all ways, so that every two of its optional arguments meet in all ways.

    Args:
        module: Whose forward it is.
        attempt: Traces it with some arguments fixed and the first questions answered, and returns the error
            if it fails.
        may_refuse: Whether its own code may refuse some optional arguments by an error; such a way is left
            out.

    Yields:
        The ways, that with the defaults first.

    Raises:
        Exception: What the tracer raised on some way.
    """
    own = type(module).forward if may_refuse else None
    bases, seen = [frozenset[str]()], set[tuple[tuple[str, object], ...]]()
    for base in bases:
        usual, *others = _arguments(module, base)
        needed = None
        for given in (usual, *others):
            key = tuple(given.items())
            if key in seen:
                continue
            seen.add(key)
            found = _answered(given, attempt, own)
            yield from found
            missing = usual.keys() - given.keys()
            if given is usual and not found:
                needed = set[str]()
            elif needed is not None and found and len(missing) == 1:
                needed |= missing
        if not base and needed:
            bases += [frozenset([name]) for name in needed]


def _arguments(module: nn.Module, required: frozenset[str]) -> list[dict[str, object]]:
    """Which arguments to fix and at what."""
    usual: dict[str, object] = {
        p.name: p.default
        for p in inspect.signature(module.forward).parameters.values()
        if (p.default is None or isinstance(p.default, bool)) and p.name not in required
    }
    other = {name: _GIVEN if value is None else not value for name, value in usual.items()}
    ways = [usual, *({**usual, name: value} for name, value in other.items())]
    if len(usual) > 1:
        ways.append(other)
    return [{name: value for name, value in way.items() if value is not _GIVEN} for way in ways]


def _answered(given: Mapping[str, object], attempt: Attempt, own: Callable[..., Any] | None) -> list[Way]:
    """The ways with the same arguments: for each question one where it is answered yes and one with no."""
    ways: list[Way] = []
    answers: list[bool] = []
    for _ in range(MOST_PATHS):
        tracer, outcome = attempt(given, answers)
        answers = list(tracer.answers)
        if isinstance(outcome, fx.Graph):
            ways.append(Way(given, tuple(answers), outcome))
        elif not tracer.is_refusal(outcome, own):
            raise outcome
        while answers and not answers[-1]:
            answers.pop()
        if not answers:
            if not ways and own is None:
                raise TraceError("it ends in an error whatever the values are")
            return ways
        answers[-1] = False
    raise TraceError(f"it asks for values on more than {MOST_PATHS} ways")
