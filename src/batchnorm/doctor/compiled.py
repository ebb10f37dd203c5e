"""What a watcher of forwards must know of compiled code."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

__all__ = ["around_forwards", "has_compiled_code", "is_compiled_in_place"]


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether its ``compile()`` was called, which compiles its hooks too."""
    return getattr(module, "_compiled_call_impl", None) is not None


def has_compiled_code(model: nn.Module) -> bool:
    """Whether the model or a part of it was compiled, in place or by `torch.compile`."""
    return any(is_compiled_in_place(m) or type(m).__name__ == "OptimizedModule" for m in model.modules())


@contextlib.contextmanager
def around_forwards(
    model: nn.Module,
    before: Callable[[nn.Module, Any], None],
    after: Callable[[nn.Module, Any, object], None],
) -> Iterator[None]:
    """Call ``before(model, args)`` and ``after(model, args, output)`` with each forward, never compiled."""
    if is_compiled_in_place(model):
        compiled: Any = model._compiled_call_impl

        def call(*args: Any, **kwargs: Any) -> Any:
            before(model, args)
            output = compiled(*args, **kwargs)
            after(model, args, output)
            return output

        model._compiled_call_impl = call
        try:
            yield
        finally:
            model._compiled_call_impl = compiled
        return
    hooks = model.register_forward_pre_hook(before, prepend=True), model.register_forward_hook(after)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
