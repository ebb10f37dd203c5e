"""Running statistics in rows, moved by the parts of a batch; and moved from inside torch.func's transforms.

Legend: R rows, P parts, C channels. Running statistics are (C,), which is one row, or (R, C); the counter
is a scalar or (R,).
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch

from batchnorm.ops.moments import Moments

__all__ = [
    "are_operations_counted",
    "batches_before",
    "move_rows",
    "outside_transforms",
    "rows_of",
    "uncounted",
]


# of torch.utils.checkpoint: that of the first forward pass, that of the repetition
_COUNTING = ("_CachingTorchDispatchMode", "_CachedTorchDispatchMode")


def rows_of(running: Tensor, rows: Sequence[int] | None) -> Tensor:
    """A copy of the row of each part, (P, C), or of the one row there is, (1, C); float64."""
    whole = running.view(-1, running.shape[-1])
    taken = whole if rows is None else whole[list(rows)]
    return taken.to(torch.float64, copy=True)


def batches_before(num_batches_tracked: Tensor, rows: Sequence[int] | None) -> Tensor:
    """Batches that the row of each part has seen, (P, 1), or the one row there is, (1, 1)."""
    seen = num_batches_tracked.view(-1, 1)
    return seen if rows is None else seen[list(rows)]


def move_rows(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    moments: Moments,
    rows: Sequence[int] | None,
    momentum: Tensor | float | None,
) -> None:
    """Move running statistics, in place, each part being a batch of its own.

    Args:
        running_mean: ``(C,)`` or ``(R, C)``, changed.
        running_var: As ``running_mean``; follows the unbiased variance.
        num_batches_tracked: int64, scalar or ``(R,)``, changed, or None.
        moments: Of the parts. A part of fewer than two values moves nothing and is not counted.
        rows: The row that each part moves, each row at most once; None if all move the one row, one
            after the other, as if they were batches.
        momentum: Weight of a new batch; None for the mean over all batches so far.

    References:
        Hoffer, Hubara & Soudry 2017, arXiv:1705.08741, Algorithm 1, for parts that move one row.
    """
    mean, freedom = moments.mean, moments.freedom()
    usable = (freedom > 0).expand(mean.shape)  # (P, C)
    counted = usable.any(1, keepdim=True).long()  # (P, 1)
    if num_batches_tracked is not None:
        # of each part among all batches of its row, (P, 1)
        number = batches_before(num_batches_tracked, rows) + (counted.cumsum(0) if rows is None else counted)
        if rows is None:
            num_batches_tracked.add_(counted.sum())
        else:
            num_batches_tracked[list(rows)] = number[:, 0]
    if momentum is None:
        momentum = 0.0 if num_batches_tracked is None else (1 / number.clamp_min(1).double()).to(mean.dtype)
    new = usable.to(mean.dtype) * momentum  # (P, C); the number itself is not copied to a device
    for running, values in ((running_mean, mean), (running_var, moments.m2 / freedom)):
        values = torch.where(usable, values, 0)  # what counts 0 may be NaN
        whole = running.view(-1, running.shape[-1])
        if rows is None:
            kept_after = (1 - new).flip(0).cumprod(0).flip(0)  # by this part and all later ones, (P, C)
            weights = new * torch.cat((kept_after[1:], torch.ones_like(new[:1])))
            running.copy_((kept_after[0] * whole[0] + (weights * values).sum(0)).view_as(running))
        else:
            places = list(rows)
            whole[places] = ((1 - new) * whole[places] + new * values).to(running.dtype)


def are_operations_counted() -> bool:
    """Whether selective activation checkpointing is at work.

    It keeps the results of some operations and knows them again, when the forward pass is repeated, by
    their number: what only the first pass does must not be counted.
    """
    if torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack():
        return False
    modes = _python_dispatch._get_current_dispatch_mode_stack()
    return any(type(mode).__name__ in _COUNTING for mode in modes)


def uncounted() -> contextlib.AbstractContextManager[Any]:
    """Context for what only the first of two equal forward passes does."""
    if are_operations_counted():
        return _python_dispatch._disable_current_modes()
    return contextlib.nullcontext()


def outside_transforms(change: Callable[..., None], running: Tensor, *values: Any) -> None:
    """Call ``change(*values)`` on values freed of the transforms that ``running`` is not part of.

    `torch.func.jacrev`, `grad`, `jvp` and `functionalize` refuse to change a tensor that the function did not
    get as an argument, and a layer's running statistics are such. They carry no gradient, so they may move
    outside of the transform. Only a `vmap` that the values differ in has to hold them too.
    """
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        change(*values)
        return
    functorch = torch._C._functorch
    interpreter = functorch.peek_interpreter_stack()
    level = interpreter.level()
    within = [isinstance(v, Tensor) and functorch.maybe_get_level(v) == level for v in values]
    mapped = interpreter.key() == functorch.TransformType.Vmap and any(within)
    if mapped or functorch.maybe_get_level(running) == level:
        change(*values)
        return
    freed = [functorch.get_unwrapped(v) if inside else v for v, inside in zip(values, within, strict=True)]
    saved = functorch.pop_dynamic_layer_stack()
    try:
        outside_transforms(change, running, *freed)
    finally:
        functorch.push_dynamic_layer_stack(saved)
