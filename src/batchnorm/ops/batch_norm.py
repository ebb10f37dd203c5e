"""Batch normalization with autograd: the one function that modules call.

Each `autograd.Function` here joins a forward op to its backward op. A second derivative is taken
through the plain torch kernels of `eager`, which autograd can follow to any order.
"""

import types
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.ops import eager, schema
from batchnorm.ops.activations import activate, activation_code
from batchnorm.ops.arguments import check_arguments
from batchnorm.ops.backend import resolve_backend

__all__ = ["batch_norm"]

_OPS = torch.ops.batchnorm
_DISPATCHED = types.SimpleNamespace(
    **{name: getattr(_OPS, name).default for name in (s.split("(")[0] for s in schema.SCHEMAS)}
)


def _kernels(backend: str) -> Any:
    return eager if backend == "eager" else _DISPATCHED


class _BatchNorm(torch.autograd.Function):
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
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, mean, var = _kernels(backend).batch_norm_forward(
            input, weight, bias, residual, eps, activation
        )
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.settings, ctx.has_residual = (eps, activation, backend), residual is not None
        # Without an activation the residual's gradient is the output's, and its values do not matter.
        ctx.save_for_backward(input, weight, bias, residual if activation else None, mean, var)
        return output, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> Any:
        if grad_output is None:
            return (None,) * 7
        input, weight, bias, residual, mean, var = ctx.saved_tensors
        eps, activation, backend = ctx.settings
        if torch.is_grad_enabled():  # create_graph=True: stay differentiable, through the statistics too
            backend = "eager"
            mean, var = eager.moments(input)
        gradients = _kernels(backend).batch_norm_backward(
            grad_output, input, weight, bias, residual, mean, var, eps, activation
        )
        return *_for_inputs(ctx, gradients, grad_output, weight, bias), None, None, None


class _Normalize(torch.autograd.Function):
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
        backend: str,
    ) -> Tensor:
        ctx.settings, ctx.has_residual = (eps, activation, backend), residual is not None
        ctx.save_for_backward(input, weight, bias, residual if activation else None, mean, var)
        kernels = _kernels(backend)
        return cast(Tensor, kernels.normalize(input, mean, var, weight, bias, residual, eps, activation))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, weight, bias, residual, mean, var = ctx.saved_tensors
        eps, activation, backend = ctx.settings
        kernels = eager if torch.is_grad_enabled() else _kernels(backend)
        gradients = kernels.normalize_backward(
            grad_output, input, mean, var, weight, bias, residual, eps, activation
        )
        return *_for_inputs(ctx, gradients, grad_output, weight, bias), None, None, None, None, None


def _for_inputs(
    ctx: Any, gradients: eager.Gradients, grad_output: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Hand the op's gradients to input, weight, bias and residual, each in its own dtype."""
    grad_input, grad_weight, grad_bias, grad_residual = gradients
    activated = ctx.settings[1] != 0
    return (
        grad_input,
        None if weight is None else grad_weight.to(weight.dtype),
        None if bias is None else grad_bias.to(bias.dtype),
        (grad_residual if activated else grad_output) if ctx.has_residual else None,
    )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    num_batches_tracked: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    nonfinite: str = "propagate",
    backend: str = "auto",
) -> Tensor:
    """Batch normalization, then an addition and an activation: act(bn(input) + residual).

    Args:
        input: Shape ``(N, C, *spatial)``; float64, float32, float16 or bfloat16; contiguous or
            channels_last, other strides are copied once.
        running_mean: ``(C,)``; moved in training, used in prediction. May be None in training.
        running_var: ``(C,)``, unbiased; as ``running_mean``.
        weight: Scale γ, ``(C,)``; None for 1. The input's dtype, or float32 beside a half input.
        bias: Shift β, ``(C,)``; None for 0.
        training: Use the batch's statistics, and move the running ones if they are given.
        momentum: Weight of the new batch; None for the mean over all batches so far, which needs
            ``num_batches_tracked``.
        eps: Added to the variance; above 0 in training.
        num_batches_tracked: int64 scalar, counted up in training.
        activation: None, ``relu``, ``leaky_relu`` (0.01), ``relu6``, ``sigmoid``, ``tanh``,
            ``silu``, ``gelu`` (exact form) or ``hardswish``.
        residual: Added before the activation; the input's shape and dtype.
        nonfinite: What a batch with NaN or infinite statistics does to the running ones:
            ``propagate`` (as torch), ``skip`` (they keep their values, and the counter too) or
            ``raise``.
        backend: ``auto``, ``eager``, ``native`` or ``torch``; see `backend.resolve_backend`.

    Returns:
        The input's shape, dtype and memory format.

    Raises:
        ValueError: If there is one value per channel in training, ``eps`` is out of range, or an
            argument is unknown.
        RuntimeError: If sizes or dtypes do not fit together.
        NotImplementedError: If the input is not floating.
        FloatingPointError: With ``nonfinite="raise"``, before anything is changed.

    Numerics:
        Statistics and arithmetic in float32 at least, float64 for float64 input; the mean is
        subtracted before scaling. Differentiable to any order.

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithms 1 and 2.

    Differs from torch:
        The running statistics may be float32 beside half parameters, a non-finite batch can be
        kept out of them, and a double-backward is that of the exact formula on every backend.
    """
    code = activation_code(activation)
    rung = resolve_backend(backend, input)
    check_arguments(input, running_mean, running_var, weight, bias, residual, training, eps, nonfinite)
    recorded = torch.is_grad_enabled()
    if torch._C._are_functorch_transforms_active() and rung != "torch":
        # vmap, jvp, jacrev see through plain torch operations, not through an autograd.Function of ours
        rung, recorded = "eager", False
    if rung == "torch":
        if input.dtype in (torch.float16, torch.bfloat16):
            # beside half data torch takes parameters and statistics of one dtype only; ours are float32
            weight, bias = (None if p is None else p.float() for p in (weight, bias))
        track = training and running_mean is not None
        plain = nonfinite == "propagate" and momentum is not None
        if plain or not training:
            if track and num_batches_tracked is not None:
                num_batches_tracked.add_(1)
            output = F.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum or 0.0, eps
            )
            return activate(output if residual is None else output + residual, code)
        output, mean, var = _torch_forward(input, weight, bias, eps)
        output = activate(output if residual is None else output + residual, code)
    elif training:
        arguments = (input, weight, bias, residual, eps, code)
        if recorded:
            output, mean, var = _BatchNorm.apply(*arguments, rung)  # type: ignore[no-untyped-call]
        else:
            output, mean, var = _kernels(rung).batch_norm_forward(*arguments)
    else:
        assert running_mean is not None  # check_arguments
        assert running_var is not None
        if recorded:
            output = _Normalize.apply(  # type: ignore[no-untyped-call]
                input, weight, bias, residual, running_mean, running_var, eps, code, rung
            )
        else:
            output = _kernels(rung).normalize(
                input, running_mean, running_var, weight, bias, residual, eps, code
            )
        return cast(Tensor, output)
    if nonfinite == "raise":
        _refuse_nonfinite(mean, var)
    if running_mean is not None and running_var is not None:
        count = input.numel() // max(input.shape[1], 1)
        skip = nonfinite == "skip"
        _kernels(rung).update_running_stats(
            running_mean, running_var, num_batches_tracked, mean, var, count, momentum, skip
        )
    return output


def _torch_forward(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's kernel, and the batch's statistics, which it gives away only as running statistics.

    With momentum 1 the "running" statistics are the batch's; its variance is then unbiased.
    """
    dtype, channels = eager.accumulation_dtype(input), input.shape[1]
    mean, var = input.new_zeros(channels, dtype=dtype), input.new_zeros(channels, dtype=dtype)
    output = F.batch_norm(input, mean, var, weight, bias, training=True, momentum=1.0, eps=eps)
    count = input.numel() // max(channels, 1)
    return output, mean, var if count < 2 else var * ((count - 1) / count)


def _refuse_nonfinite(mean: Tensor, var: Tensor) -> None:
    finite = torch.isfinite(mean) & torch.isfinite(var)
    if not finite.all():
        wrong = int((~finite).sum())
        raise FloatingPointError(
            f"batch_norm: input expected finite statistics, got NaN or infinity in {wrong} of "
            f"{finite.numel()} channels; the running statistics are unchanged"
        )
