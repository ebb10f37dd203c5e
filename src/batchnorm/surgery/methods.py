"""What a module's methods do with its parts, told by the names in their code."""

import dis
import inspect
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from torch import nn

__all__ = ["codes_of", "functions_in", "methods_using", "names_in_forward", "uses"]


def names_in_forward(module: nn.Module) -> set[str]:
    """Names in the code of a module's ``forward`` and of the methods it calls, their names among them."""
    methods = _methods(module)
    names, waiting = set[str](), ["forward"]
    while waiting:
        for function in methods.pop(waiting.pop(), ()):
            for code in codes_of(function.__code__):
                names |= set(code.co_names)
        waiting = [name for name in names if name in methods]
    return names


def methods_using(module: nn.Module, names: Collection[str]) -> Iterator[tuple[str, FunctionType]]:
    """Methods but the constructor and ``forward`` that do more with an attribute than ask it for its own."""
    for name, functions in _methods(module).items():
        if name not in ("__init__", "forward"):
            yield from ((name, function) for function in functions if uses(function, names))


def uses(function: FunctionType, names: Collection[str]) -> bool:
    """Whether code takes such an attribute of anything, to call it or hand it on.

    Example:
        >>> uses(lambda self, x: self.norm(x), ["norm"]), uses(lambda self: self.norm.eval(), ["norm"])
        (True, False)
    """
    steps = itertools.chain.from_iterable(map(dis.get_instructions, codes_of(function.__code__)))
    return any(
        step.opname in _LOADS
        and step.argval in names
        and (after.opname not in (*_LOADS, "STORE_ATTR") or after.argval == "forward")
        for step, after in itertools.pairwise(steps)
    )


_LOADS = ("LOAD_ATTR", "LOAD_METHOD")


def _methods(module: nn.Module) -> dict[str, list[FunctionType]]:
    """By name, in all classes below torch's."""
    methods = defaultdict(list)
    for cls in type(module).__mro__[: -len(nn.Module.__mro__)]:
        for name, function in functions_in(vars(cls)):
            methods[name].append(function)
    return methods


def functions_in(names: Mapping[str, Any]) -> Iterator[tuple[str, FunctionType]]:
    """Functions of a class or module by name, those of properties and what decorators wrap too."""
    for name, value in names.items():
        held: Any = value.fget if isinstance(value, property) else value
        function = inspect.unwrap(held)
        if isinstance(function, FunctionType):
            yield name, function


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)
