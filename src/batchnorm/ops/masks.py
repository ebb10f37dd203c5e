"""Masks: which positions count, and how much.

A mask is boolean, or weights of at least 0, and broadcasts to ``(N, *spatial)`` or, for a mask of the
input's rank, to ``(N, C, *spatial)``.
"""

import math

import torch
from torch import Tensor

from batchnorm.ops.backend import is_transformed
from batchnorm.ops.eager import as_output

__all__ = ["as_weights", "put_back", "take"]


def as_weights(mask: Tensor, input: Tensor) -> Tensor:
    """The mask with the input's rank, every size the input's or, for the channels, 1.

    Args:
        mask: As above; boolean or floating.
        input: Shape ``(N, C, *spatial)``.

    Raises:
        TypeError: If the mask is no tensor.
        ValueError: If the mask does not broadcast, is neither boolean nor floating, or, where looking costs
            no wait for a device, has a weight that is negative, infinite or NaN.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"batch_norm: mask expected a tensor, got {type(mask).__name__}")
    shape = input.shape
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"batch_norm: mask expected booleans or floating weights, got {mask.dtype}")
    whole = mask.unsqueeze(1) if mask.dim() == input.dim() - 1 else mask
    fits = whole.dim() == input.dim() and all(m in (1, n) for m, n in zip(whole.shape, shape, strict=True))
    if not fits:
        raise ValueError(
            f"batch_norm: mask expected to broadcast to {(shape[0], *shape[2:])} or {tuple(shape)}, "
            f"got {tuple(mask.shape)}"
        )
    looked_at = mask.is_floating_point() and mask.device.type == "cpu"
    if looked_at and not (torch.compiler.is_compiling() or is_transformed()):
        wrong = ~((mask >= 0) & (mask < math.inf))
        if wrong.any():
            found = mask[wrong][0].item()
            raise ValueError(f"batch_norm: mask expected finite weights of at least 0, got {found}")
    return whole.expand(shape[0], whole.shape[1], *shape[2:])


def take(values: Tensor, mask: Tensor) -> Tensor:
    """The values at true positions, ``(V, C)``, in the order of the positions.

    Args:
        values: Shape ``(N, C, *spatial)``.
        mask: Boolean, ``(N, 1, *spatial)``.
    """
    return values.movedim(1, -1)[mask.squeeze(1)]


def put_back(taken: Tensor, mask: Tensor, input: Tensor) -> Tensor:
    """The inverse of `take`: zeros where the mask is false, laid out as an output for ``input`` is."""
    whole = taken.new_zeros(input.movedim(1, -1).shape)
    return as_output(whole.index_put((mask.squeeze(1),), taken).movedim(-1, 1), input)
