"""All ways through a forward: optional arguments given or not, questions about values answered yes and no.

torch.fx runs a forward once, on placeholders, and so sees one way. ``if mask is None`` asks for no value, and
only one of its branches would be seen; ``if x.sum() > 0`` asks for one, and would be the end.
"""

import dataclasses
import dis
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from batchnorm.surgery.decorators import undecorated

__all__ = ["Answering", "Way", "ways_through"]

MOST_QUESTIONS = 8
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


class Proxy(fx.Proxy):
    """Notes what is written into a part of a tensor, which fx refuses."""

    def __setitem__(self, key: object, value: object) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


class Answering(fx.Tracer):
    """Answers the questions of the root's own code as it is told, and further ones with yes.

    Args:
        answers: To the first questions.
        options: Of `torch.fx.Tracer`.

    Attributes:
        answers: To all questions so far.
        undecorated: Whether what is traced is wrapped by a decorator, which is not.
    """

    def __init__(self, answers: Sequence[bool] = (), **options: Any) -> None:
        super().__init__(**options)
        self._told = list(answers)
        self._asker: FrameType | None = None
        self.answers: list[bool] = []
        self.undecorated = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the value of a node."""
        return Proxy(node, self)

    def is_own_code(self) -> bool:
        """Whether the root's own code runs now, not that of a module that it calls."""
        return True

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer a question about a value."""
        if not self.is_own_code() or len(self.answers) == MOST_QUESTIONS:
            return super().to_bool(obj)
        number = len(self.answers)
        self.answers.append(self._told[number] if number < len(self._told) else True)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("torch.fx"):
            frame = frame.f_back
        self._asker = frame
        return self.answers[-1]

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Any, list[Any]]:
        """Placeholders for the arguments, and values for those that are fixed.

        torch.fx's own way to fix them adds an assertion for each, as if the code used them.
        """
        function = undecorated(root_fn, self.root)
        self.undecorated = function is not root_fn
        function, args = super().create_args_for_root(function, is_module, None)
        fixed = concrete_args if isinstance(concrete_args, dict) else {}
        return function, [
            fixed.get(str(arg.node.target), arg) if isinstance(arg, fx.Proxy) else arg for arg in args
        ]

    def is_refusal(self, error: BaseException, own: Callable[..., Any] | None) -> bool:
        """Whether an error is no fault of the placeholders, so that nothing is ever computed on this way.

        That is what a function raises itself after it last asked; so does the body of ``own`` without a
        question, or it takes something of an argument that is None.
        """
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None or error.__context__ is not None:
            return False
        code = trace.tb_frame.f_code
        if own is not None and code is inspect.unwrap(own).__code__:
            of_none = isinstance(error, AttributeError) and error.name is not None and error.obj is None
        elif trace.tb_frame is self._asker:
            of_none = False
        else:
            return False
        return of_none or dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


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
