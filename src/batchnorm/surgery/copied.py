"""Copies of modules, also of those that keep tensors of a graph."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from batchnorm.records import error_line

__all__ = ["copied"]

_Module = TypeVar("_Module", bound=nn.Module)


def copied(op: str, module: _Module, shared: Iterable[Tensor] = ()) -> _Module:
    """A deep copy.

    Torch copies no tensor that a graph has made, as a hook's spectral norm or a layer that keeps its
    features holds; the copy has the tensor's values, without the graph.

    Args:
        op: Who asks, for the error.
        module: Any.
        shared: Tensors that the copy is to have itself.

    Raises:
        ValueError: If the module holds what cannot be copied, as a lock or an open file.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(2)
        >>> layer.seen = layer(torch.randn(4, 2))
        >>> copied("fold", layer).seen.requires_grad
        False
    """
    try:
        with _WithoutGraph():
            return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
    except Exception as error:  # foreign code may refuse in any way
        raise ValueError(f"{op}: model expected one that can be copied, got {error_line(error)}") from error


class _WithoutGraph(TorchFunctionMode):
    """Asked for each tensor wherever it is kept, which no search through attributes finds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return copy.deepcopy(tensor.detach(), memo)
        return func(*args, **(kwargs or {}))
