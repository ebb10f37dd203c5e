"""Questions about a module of any class."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["OF_EVERY_MODULE", "has_hooks", "hooks_of", "modules_in", "runs_forward_of"]

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Names of the attributes that torch gives every module."""


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """The hooks by which others watch or change what goes in or out."""
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether others watch or change what goes in or out."""
    return any(hooks_of(module))


def runs_forward_of(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether calling a module runs the forward of one of these classes, not one of its own."""
    # looked up so since a ScriptModule's class raises when it is asked for it
    forward = inspect.getattr_static(type(module), "forward")
    return "forward" not in vars(module) and any(forward is kind.forward for kind in classes)


def modules_in(value: object) -> Iterator[nn.Module]:
    """Modules in plain lists and the like, where torch does not see them."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        yield from modules_in(list(value.values()))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from modules_in(item)
