"""``int(x.shape[2])`` while a forward is traced: Python lets it give a number only, and there is none yet.

So code that converts a placeholder is traced again with another ``int`` in its module, which notes the
conversion as a step. What the code asks of the result is then a question about values (see `ways`); a number,
of an example for instance, would answer for inputs of that size alone.
"""

import contextlib
import dis
import itertools
from collections.abc import Iterator
from typing import Any

from torch import fx

from batchnorm.surgery.methods import codes_of, functions_in

__all__ = ["can_note_int", "int_noted"]


def can_note_int(names: dict[str, Any]) -> bool:
    """Whether `int_noted` helps and is not seen, as ``type(x) is int`` alone would.

    Args:
        names: Global names of code that calls ``int`` on a placeholder.
    """
    return "int" not in names and not _tells_int_apart(names)


@contextlib.contextmanager
def int_noted(names: dict[str, Any]) -> Iterator[None]:
    """Let ``int`` note placeholders meanwhile in code with these global names."""
    names["int"] = _Int
    try:
        yield
    finally:
        names.pop("int", None)  # another thread may have been faster


class _Kind(type):
    """Makes its class ``int`` but for what it returns of a placeholder."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], fx.Proxy):
            return args[0].tracer.create_proxy("call_function", int, args, kwargs)
        return int(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, int)

    def __eq__(cls, other: object) -> bool:
        return other is int or other is cls

    def __hash__(cls) -> int:
        return hash(int)


class _Int(int, metaclass=_Kind):
    pass


def _tells_int_apart(names: dict[str, Any]) -> bool:
    """Whether code in a module has ``is int`` or ``is not int``."""
    called = {name: value for name, value in names.items() if callable(value)}
    classes = [vars(value) for value in called.values() if isinstance(value, type)]
    held = itertools.chain.from_iterable(functions_in(space) for space in (called, *classes))
    codes = itertools.chain.from_iterable(codes_of(f.__code__) for _, f in held if f.__globals__ is names)
    return any(
        step.argval == "int" and after.opname == "IS_OP"
        for code in codes
        if "int" in code.co_names
        for step, after in itertools.pairwise(dis.get_instructions(code))
    )
