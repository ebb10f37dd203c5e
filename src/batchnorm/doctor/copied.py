"""Copies of modules, also of those that keep tensors of a graph."""

import copy

from torch import nn

from batchnorm.surgery.equivalence import tensors_in

__all__ = ["copied"]


def copied(module: nn.Module) -> nn.Module:
    """A deep copy.

    Torch copies no tensor that a graph has made, as a hook's spectral norm or a layer that keeps its
    features holds; the copy has the tensor's values, without the graph.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(2)
        >>> layer.seen = layer(torch.randn(4, 2))
        >>> copied(layer).seen.requires_grad
        False
    """
    kept = tensors_in([list(vars(part).values()) for part in module.modules()])
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in kept if not t.is_leaf})
