"""The ops joined to their backward ops, for autograd.

Old-style `forward(ctx, …)`: with `setup_context`, `Function.apply` inspects the signature at each call,
which costs more than the rest. A second derivative is taken through the plain torch kernels of `eager`,
which autograd can follow to any order. torch.compile is given the Functions as `schema.COMPOSITES`.
"""

import types
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from batchnorm.ops import eager, schema
from batchnorm.ops.backend import is_recorded, is_transformed
from batchnorm.ops.recompute import entered, remember
from batchnorm.ops.running import are_operations_counted, outside_transforms, uncounted

__all__ = ["Running", "normalize", "normalize_batch", "update_running"]

Running = tuple[Tensor, Tensor, Tensor | None, float | None, bool]
"""What a training step moves, and how: mean, var, counter, momentum, skip_nonfinite."""

_DISPATCHED = types.SimpleNamespace(
    **{name: getattr(torch.ops.batchnorm, name).default for name in schema.NAMES}
)


def kernels_of(rung: str) -> Any:
    """The ops of a rung: ``eager`` called directly, ``native`` through the dispatcher."""
    return eager if rung == "eager" else _DISPATCHED


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int,
    rung: str,
    running: Running | None,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = kernels_of(rung)
    if running is None or are_operations_counted():
        result = kernels.batch_norm_forward(input, weight, bias, residual, eps, activation, avg_pool)
        if running is not None:
            with uncounted():
                update_running(input, result[1], result[2], rung, running)
    else:
        mean, var, counter, momentum, skip = running
        result = kernels.batch_norm_forward_update(
            input, weight, bias, residual, mean, var, counter, eps, activation, momentum, skip, avg_pool
        )
        _mark_changed(rung, mean, var)
    return cast(tuple[Tensor, Tensor, Tensor], result)


class _BatchNorm(Function):
    """Training: normalize with the batch's own statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        activation: int,
        avg_pool: int,
        rung: str,
        running: Running | None,
        measured: bool,
    ) -> tuple[Tensor, ...]:
        output, mean, var = _forward(input, weight, bias, residual, eps, activation, avg_pool, rung, running)
        ctx.set_materialize_grads(False)
        _keep(ctx, (input, weight, bias, residual, mean, var), (eps, activation, avg_pool, rung))
        if not measured:  # outputs that nobody needs take microseconds too
            return (output,)
        ctx.mark_non_differentiable(mean, var)
        return output, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> Any:
        if grad_output is None:
            return (None,) * 10
        input, weight, bias, residual, mean, var = ctx.saved_tensors
        eps, activation, avg_pool, rung = ctx.settings
        if _is_followed():  # stay differentiable, through the statistics too
            rung = "eager"
            mean, var = eager.moments(input)
        gradients = kernels_of(rung).batch_norm_backward(
            grad_output, input, weight, bias, residual, mean, var, eps, activation, avg_pool
        )
        return *_for_inputs(ctx, gradients, grad_output), None, None, None, None, None, None


class _Normalize(Function):
    """Prediction: normalize with given statistics, which are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
        activation: int,
        avg_pool: int,
        rung: str,
    ) -> Tensor:
        _keep(ctx, (input, weight, bias, residual, mean, var), (eps, activation, avg_pool, rung))
        kernels = kernels_of(rung)
        return cast(
            Tensor, kernels.normalize(input, mean, var, weight, bias, residual, eps, activation, avg_pool)
        )

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, weight, bias, residual, mean, var = ctx.saved_tensors
        eps, activation, avg_pool, rung = ctx.settings
        kernels = eager if _is_followed() else kernels_of(rung)
        gradients = kernels.normalize_backward(
            grad_output, input, mean, var, weight, bias, residual, eps, activation, avg_pool
        )
        return *_for_inputs(ctx, gradients, grad_output), None, None, None, None, None, None


def _is_followed() -> bool:
    """Whether a backward pass is itself differentiated: by ``create_graph=True`` or forward-mode AD."""
    return torch.is_grad_enabled() or is_transformed()


def _keep(ctx: Any, tensors: tuple[Tensor | None, ...], settings: tuple[float, int, int, str]) -> None:
    """Keep what a backward pass needs: without an activation neither what was added nor where z lies."""
    input, weight, bias, residual, mean, var = tensors
    ctx.settings, ctx.has_residual = settings, residual is not None
    ctx.dtypes = [None if parameter is None else parameter.dtype for parameter in (weight, bias)]
    if settings[1] == 0:
        bias = residual = None
    ctx.save_for_backward(input, weight, bias, residual, mean, var)


def _for_inputs(ctx: Any, gradients: eager.Gradients, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    """Hand the op's gradients to input, weight, bias and residual, each in its own dtype."""
    grad_input, grad_weight, grad_bias, grad_residual = gradients
    activated = ctx.settings[1] != 0
    of_weight, of_bias = ctx.dtypes
    return (
        grad_input,
        None if of_weight is None else _cast(grad_weight, of_weight),
        None if of_bias is None else _cast(grad_bias, of_bias),
        (grad_residual if activated else grad_output) if ctx.has_residual else None,
    )


def _cast(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    # `to` costs microseconds even where it has nothing to do
    return gradient if gradient.dtype == dtype else gradient.to(dtype)


# Past `Function.apply`, whose care for functorch costs a quarter of a call; under functorch neither is used.
_apply_batch_norm: Callable[..., Any] = super(Function, _BatchNorm).apply
_apply_normalize: Callable[..., Any] = super(Function, _Normalize).apply

schema.implement("traced_batch_norm", lambda *arguments: _apply_batch_norm(*arguments, None, True))
schema.implement("traced_normalize", _apply_normalize)


def normalize_batch(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int,
    rung: str,
    running: Running | None,
    measured: bool = False,
) -> tuple[Tensor, ...]:
    """Training forward under autograd; moves ``running`` if it is given.

    Returns:
        Output; if ``measured``, also the batch's mean and biased variance, which carry no gradient.
    """
    arguments = (input, weight, bias, residual, eps, activation, avg_pool, rung, running)
    if is_transformed():
        result = _forward(*arguments[:-2], "eager", None)
        if running is not None:
            update_running(input, result[1], result[2], "eager", running)
    elif torch.compiler.is_compiling():
        result = torch.ops.batchnorm.traced_batch_norm(*arguments[:-1])
        if running is not None:
            update_running(input, result[1], result[2], rung, running)
    elif torch.is_grad_enabled():
        lean = bool(entered())
        result = _apply_batch_norm(*arguments, measured or lean)
        if lean:
            output, mean, var = result
            again = kernels_of(rung).normalize
            remember(output, again, input, mean, var, weight, bias, residual, eps, activation, avg_pool)
    else:
        result = _forward(*arguments)
    return cast(tuple[Tensor, ...], result)


def update_running(input: Tensor, mean: Tensor, var: Tensor, rung: str, running: Running) -> None:
    """Move the running statistics towards those of ``input``."""
    running_mean, running_var, counter, momentum, skip = running
    count = input.numel() // max(input.shape[1], 1)
    move = kernels_of("eager" if is_recorded() else rung).update_running_stats

    def change(mean: Tensor, var: Tensor) -> None:
        move(running_mean, running_var, counter, mean, var, count, momentum, skip)

    outside_transforms(change, running_mean, mean.detach(), var.detach())
    if not torch.compiler.is_compiling():
        _mark_changed(rung, running_mean, running_var)


def _mark_changed(rung: str, *running: Tensor) -> None:
    """Tell autograd what an op of ours mutated: a prediction's backward pass may need the old values."""
    if rung == "native":
        torch.autograd.graph.increment_version(running)


def normalize(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: int,
    avg_pool: int,
    rung: str,
) -> Tensor:
    """Prediction under autograd, ``mean`` and ``var`` being constants."""
    if torch.is_grad_enabled() and not is_transformed():
        arguments = (input, weight, bias, residual, mean, var, eps, activation, avg_pool, rung)
        if torch.compiler.is_compiling():
            output = torch.ops.batchnorm.traced_normalize(*arguments)
        else:
            output = _apply_normalize(*arguments)
            again = kernels_of(rung).normalize
            remember(output, again, input, mean, var, weight, bias, residual, eps, activation, avg_pool)
    else:
        kernels = eager if is_transformed() else kernels_of(rung)
        output = kernels.normalize(input, mean, var, weight, bias, residual, eps, activation, avg_pool)
    return cast(Tensor, output)
