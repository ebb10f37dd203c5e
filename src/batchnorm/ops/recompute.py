"""Saved tensors that are outputs of ours, kept as recipes and computed again in the backward pass.

A layer's output is one pass over its input away, and the input is kept for the layer's own backward
anyway. While `Recompute` is active, whatever other operation saves such an output (the convolution
after it, mostly) keeps a `_Recipe` instead, and the output's memory is free once the forward pass is
past it. The recipe runs the forward's own kernel on the forward's own numbers: gradients are equal
to the last bit.

How an output is recognized: torch hands the hook an alias of the saved tensor. It is an output of
ours if it shares the memory of one that is still alive (a weak reference says so, hence no memory
can have been reused) and has not been written to since (its version counter says so).
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Recompute", "entered", "remember"]

# With residual connections a recipe needs the output before it, which is a recipe too. At most so many
# follow each other, then one output is kept: a network of residual blocks keeps every fourth.
MAX_CHAIN = 2

_Packed = Any
_Hooks = tuple[Callable[[Tensor], _Packed], Callable[[_Packed], Tensor]]


class _Kept:
    """A tensor kept as it is, and its version; torch checks none under hooks.

    Without its graph: an operation that saves its own result would hold itself for ever.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor.detach(), tensor._version

    def __call__(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                f"lean: a tensor of shape {tuple(self.tensor.shape)} that the backward pass needs was "
                f"modified by an in-place operation, expected version {self.version}, got "
                f"{self.tensor._version}"
            )
        return self.tensor


class _Foreign:
    """A tensor left to the saved-tensor hooks around ours."""

    def __init__(self, tensor: Tensor, hooks: _Hooks) -> None:
        self.packed, self.unpack = hooks[0](tensor), hooks[1]

    def __call__(self) -> Tensor:
        return self.unpack(self.packed)


class _Recipe:
    """How to compute an output again: ``compute(*ingredients)``.

    The result is held from the first use until every operation that saved the output has had it, so
    that it is computed once in a backward pass.
    """

    def __init__(
        self,
        output: "weakref.ref[Tensor]",
        version: int,
        chain: int,
        compute: Callable[..., Tensor],
        ingredients: tuple[Any, ...],
    ) -> None:
        self.output, self.version, self.chain = output, version, chain
        self.compute, self.ingredients = compute, ingredients
        self.users = self.served = 0
        self.result: Tensor | None = None

    def __call__(self) -> Tensor:
        output = self.output()
        if output is not None and output._version != self.version:
            raise RuntimeError(
                f"lean: an output of batch_norm of shape {tuple(output.shape)} was modified by an in-place "
                f"operation after another had saved it, expected version {self.version}, got "
                f"{output._version}"
            )
        result = self.result
        if result is None:
            with torch.no_grad():
                result = self.compute(*(i() if callable(i) else i for i in self.ingredients))
        self.served += 1
        self.result = None if self.served % self.users == 0 else result
        return result


class _View:
    """An output of ours, seen with other sizes and strides."""

    def __init__(self, recipe: _Recipe, tensor: Tensor) -> None:
        self.recipe = recipe
        self.geometry = tensor.size(), tensor.stride(), tensor.storage_offset()

    def __call__(self) -> Tensor:
        return self.recipe().as_strided(*self.geometry)


class Recompute:
    """Context in which saved outputs of ours become recipes; entered once, within others and other hooks.

    Args:
        owner: By which whoever has to leave it knows it again.
    """

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self._recipes: dict[int, _Recipe] = {}
        self._outer: _Hooks | None = None

    def __enter__(self) -> Self:
        """Put our hooks in front of those in force, which still get what is not ours."""
        self._outer = torch._C._autograd._top_saved_tensors_default_hooks(False)
        torch._C._autograd._push_saved_tensors_default_hooks(self._pack, lambda packed: packed())
        _active.stack.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take our hooks away; recipes live on in the graph that saved them.

        A context inside, whose owner was interrupted, is left too.
        """
        while self in _active.stack:
            context = _active.stack.pop()
            context._recipes.clear()
            context.owner = None  # a frame, say, which holds what its forward pass returned
            if context.is_on_top():
                torch._C._autograd._pop_saved_tensors_default_hooks()

    def is_on_top(self) -> bool:
        """Whether the hooks in force are ours, or those around ours that left before ours and took them."""
        top = torch._C._autograd._top_saved_tensors_default_hooks(False)
        return top is not None and (top[0] == self._pack or top == self._outer)

    def remember(self, output: Tensor, compute: Callable[..., Tensor], ingredients: tuple[Any, ...]) -> None:
        """Learn how ``output`` was computed, unless the chain of recipes would become too long."""
        tensors = [i for i in ingredients if isinstance(i, Tensor)]
        chain = 1 + max((found[0].chain for found in map(self._find, tensors) if found), default=-1)
        if chain > MAX_CHAIN:
            return
        key, recipes = output.untyped_storage()._cdata, self._recipes

        def forget(died: "weakref.ref[Tensor]") -> None:
            if key in recipes and recipes[key].output is died:
                del recipes[key]

        packed = tuple(self._pack(i.detach()) if isinstance(i, Tensor) else i for i in ingredients)
        recipes[key] = _Recipe(weakref.ref(output, forget), output._version, chain, compute, packed)

    def _find(self, tensor: Tensor) -> tuple[_Recipe, Tensor] | None:
        """The recipe of the memory that ``tensor`` looks at, and the output it is of."""
        recipe = self._recipes.get(tensor.untyped_storage()._cdata)
        output = recipe.output() if recipe is not None else None
        if recipe is None or output is None or output._version != recipe.version:
            return None
        # the imaginary part of a conjugate is minus what lies in the memory
        same = tensor.dtype == output.dtype and tensor.is_neg() == output.is_neg()
        return (recipe, output) if same else None

    def _pack(self, tensor: Tensor) -> _Packed:
        found = self._find(tensor)
        if found is None:
            return _Kept(tensor) if self._outer is None else _Foreign(tensor, self._outer)
        recipe, output = found
        recipe.users += 1
        as_it_is = tensor.size() == output.size() and tensor.stride() == output.stride()
        return recipe if as_it_is else _View(recipe, tensor)


class _Active(threading.local):
    """Contexts entered in this thread, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[Recompute] = []


_active = _Active()


def entered() -> Sequence[Recompute]:
    """The contexts that this thread is in, the innermost first."""
    return _active.stack[::-1]


def remember(output: Tensor, compute: Callable[..., Tensor], *ingredients: Any) -> None:
    """Tell the innermost context, if there is one, how ``output`` was computed."""
    if _active.stack and output.requires_grad:
        _active.stack[-1].remember(output, compute, ingredients)
