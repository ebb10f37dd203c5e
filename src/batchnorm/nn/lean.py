"""Half the stored activations: outputs of batch norm are computed again instead of kept."""

import contextlib
import sys
import types
from typing import Any, NamedTuple, Self, TypeVar, overload

import torch
from torch import nn

from batchnorm.ops.recompute import Recompute, entered

__all__ = ["lean"]

_Model = TypeVar("_Model", bound=nn.Module)


class _Lean:
    """Lean while inside; may be entered again inside, and by several threads at once."""

    def __enter__(self) -> Self:
        Recompute(self).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for context in entered():
            if context.owner is self:
                context.__exit__(None, None, None)
                break


class _Forward(NamedTuple):
    """A forward pass: whose, and the frame that called its hooks."""

    module: nn.Module
    frame: types.FrameType

    def is_running(self) -> bool:
        frame: types.FrameType | None = sys._getframe()
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None


@overload
def lean() -> contextlib.AbstractContextManager[object]: ...
@overload
def lean(model: _Model) -> _Model: ...


def lean(model: nn.Module | None = None) -> Any:
    """Keep no output of our batch-norm layers for the backward pass; compute it again from the input.

    In a network of convolution, batch norm, activation, two tensors a layer are stored: batch norm
    keeps its input, the next convolution keeps batch norm's output. The second is one cheap pass over
    the first. Gradients are equal to the last bit.

    Args:
        model: Whose forward passes shall be lean from now on; None for a context manager around
            forward passes of anything (the backward pass may be inside or outside).

    Returns:
        ``model`` itself, or the context manager.

    Raises:
        TypeError: If ``model`` is not a module.
        RuntimeError: In the backward pass, if a tensor it needs was modified in place meanwhile.

    Works with autocast, DDP, activation checkpointing, several consumers of one output and other
    saved-tensor hooks. Layers of ``torch.nn`` and those with ``backend="torch"`` are kept as they are,
    and so is an output that is modified in place, and all of a compiled model. As under any
    saved-tensor hook, torch cannot check that the *result* of an operation that saved it (exp, sigmoid)
    was not modified in place afterwards. A forward pass of ``model`` that Ctrl-C ends leaves the thread
    lean until the next one, or until ``with lean(): ...`` around it ends.

    Example:
        >>> from batchnorm.nn import BatchNorm2d
        >>> norm = BatchNorm2d(4, activation="relu")
        >>> model = lean(nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Conv2d(4, 1, 3)))
        >>> with lean():
        ...     loss = model(torch.randn(2, 1, 8, 8)).sum()
        >>> loss.backward()
    """
    if model is None:
        return _Lean()
    if not isinstance(model, nn.Module):
        raise TypeError(f"lean: model expected a torch.nn.Module, got {type(model).__name__}")
    if _enter not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_enter, prepend=True)
        model.register_forward_hook(_leave, always_call=True)
    return model


def _enter(module: nn.Module, _: Any) -> None:
    if torch.compiler.is_compiling():
        return
    for context in entered():
        # torch calls no hook when KeyboardInterrupt or SystemExit ends a forward pass
        owner = context.owner
        if not isinstance(owner, _Forward) or owner.is_running() or not context.is_on_top():
            break
        context.__exit__(None, None, None)
    Recompute(_Forward(module, sys._getframe(1))).__enter__()


def _leave(module: nn.Module, *_: Any) -> None:
    for context in entered():
        if isinstance(context.owner, _Forward) and context.owner.module is module:
            context.__exit__(None, None, None)
            break
