"""What a decorated forward does with a module's parts, told by the names in the decorator's code."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import nn
from torch.fx.proxy import TraceError

from batchnorm.surgery.methods import codes_of
from batchnorm.surgery.modules import OF_EVERY_MODULE, modules_in

__all__ = ["undecorated"]

_ALL_PARTS = {
    "_modules", "apply", "children", "get_submodule", "modules", "named_children", "named_modules",
    "register_forward_hook", "register_forward_pre_hook", "vars", "__dict__",
}  # fmt: skip


def undecorated(forward: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """What to trace of a forward: what its decorator wraps, if torch.fx cannot trace through that.

    Fx gives a decorator the arguments of what it wraps, which fails where these have no fixed number. What is
    wrapped may be traced alone, with anything for arguments, if that is all that the decorator does with the
    module: then each of its calls is a way that was seen.

    Args:
        forward: Of the module's class.
        module: Whose.

    Raises:
        TraceError: If the decorator may use the module's parts itself.
    """
    wrapped: Callable[..., Any] = inspect.unwrap(forward)
    code = getattr(wrapped, "__code__", None)
    if wrapped is forward or code is None:
        return forward
    if not code.co_kwonlyargcount and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return forward
    parts = _ALL_PARTS | set(module._modules)
    parts |= {
        name
        for name, value in vars(module).items()
        if name not in OF_EVERY_MODULE and next(modules_in(value), None) is not None
    }
    used = sorted(parts.intersection(_names(forward, wrapped)))
    if used:
        raise TraceError(f"its forward is wrapped by a decorator that may use its parts ({', '.join(used)})")
    return wrapped


def _names(forward: Callable[..., Any], wrapped: Callable[..., Any]) -> set[str]:
    """Names and strings in the code of a decorator, and of the functions that it calls by name."""
    names, seen = set[str](), set[int]([id(wrapped)])
    waiting: list[Any] = [forward]
    while waiting:
        function = waiting.pop()
        if id(function) in seen or not isinstance(function, FunctionType):
            continue
        seen.add(id(function))
        here = set[str]()
        for code in codes_of(function.__code__):
            here |= {*code.co_names, *(const for const in code.co_consts if isinstance(const, str))}
        names |= here
        waiting += [function.__globals__[name] for name in here & function.__globals__.keys()]
        waiting += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        waiting.append(getattr(function, "__wrapped__", None))
    return names


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
