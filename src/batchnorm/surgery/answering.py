"""A tracer that goes on where code asks for values: what it is told, it answers.

While it traces, torch.fx exchanges methods of all modules of the process. So one thread traces at a time, and
what other threads call meanwhile, a server that predicts for one, goes past the tracer.
"""

import contextlib
import dis
import inspect
import operator
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
from torch import fx, nn

from batchnorm.surgery.decorators import undecorated
from batchnorm.surgery.integers import can_note_int, int_noted

__all__ = ["Answering", "Proxy", "one_at_a_time", "traced"]

MOST_QUESTIONS = 8

_TURN = threading.RLock()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread traces, and keep the code that is traced from warning.

    The filters of warnings belong to all threads too.
    """
    with _TURN, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Proxy(fx.Proxy):
    """Notes what is written into a part of a tensor, which fx refuses, and where a number is made of it."""

    def __setitem__(self, key: object, value: object) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __int__(self) -> NoReturn:
        names = sys._getframe(1).f_globals
        if isinstance(self.tracer, Answering) and can_note_int(names):
            self.tracer.asks_int = names
        raise TypeError("int() argument must be a number, not one that is not known yet")


class _InThisThread:
    """True in the thread that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __bool__(self) -> bool:
        return threading.get_ident() == self._thread


class Answering(fx.Tracer):
    """Answers the questions of the root's own code as it is told, and further ones with yes.

    Args:
        answers: To the first questions.
        options: Of `torch.fx.Tracer`.

    Attributes:
        answers: To all questions so far.
        asks_int: Global names of code that called ``int`` on a placeholder, where that can be noted.
        undecorated: Whether what is traced is wrapped by a decorator, which is not.
    """

    def __init__(self, answers: Sequence[bool] = (), **options: Any) -> None:
        super().__init__(**options)
        self._told = list(answers)
        self._here = _InThisThread()
        self._asker: FrameType | None = None
        self.answers: list[bool] = []
        self.asks_int: dict[str, Any] | None = None
        self.undecorated = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the value of a node."""
        return Proxy(node, self)

    def is_own_code(self) -> bool:
        """Whether the root's own code runs now, not that of a module that it calls."""
        return True

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note a call of a module, or look into it; let those of other threads pass."""
        if not self._here:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A placeholder for a parameter of the root; other threads get the parameter."""
        if not self._here:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

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
        # by this torch.compile refuses to run what it has compiled; it need not in other threads
        torch.fx._symbolic_trace._is_fx_tracing_flag = self._here  # type: ignore[assignment]
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


AnyTracer = TypeVar("AnyTracer", bound=Answering)


def traced(
    tracer: Callable[[], AnyTracer],
    module: nn.Module,
    given: Mapping[str, object],
    noted: contextlib.ExitStack,
) -> tuple[AnyTracer, fx.Graph | Exception]:
    """Trace a module, again where its code calls ``int`` on a placeholder.

    Args:
        tracer: Makes a fresh one.
        module: Whose forward it is.
        given: Arguments to fix, and at what.
        noted: On leaving, ``int`` is again what it was.

    Returns:
        The last tracer, and the graph or the error with which it failed.
    """
    while True:
        fresh = tracer()
        outcome: fx.Graph | Exception
        try:
            outcome = fresh.trace(module, dict(given))
        except Exception as error:
            outcome = error
        if fresh.asks_int is None:
            return fresh, outcome
        noted.enter_context(int_noted(fresh.asks_int))
