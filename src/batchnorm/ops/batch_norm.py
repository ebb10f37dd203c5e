"""Batch normalization: the one function that modules call."""

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.ops import autograd, eager
from batchnorm.ops.activations import activate, activation_code
from batchnorm.ops.arguments import check_arguments, refuse_nonfinite, refuse_one_value
from batchnorm.ops.backend import is_recorded, is_transformed, resolve_backend
from batchnorm.ops.pooling import average, check_windows, is_within

__all__ = ["batch_norm"]


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
    avg_pool: int = 1,
    nonfinite: str = "propagate",
    backend: str = "auto",
) -> Tensor:
    """Batch normalization, then an addition, an activation and pooling: pool(act(bn(input) + residual)).

    Args:
        input: Shape ``(N, C, *spatial)``; float64, float32, float16 or bfloat16; contiguous or
            channels_last, other strides are copied once.
        running_mean: ``(C,)``; moved in training, used in prediction. May be None in training.
        running_var: ``(C,)``, unbiased; as ``running_mean``.
        weight: Scale γ, ``(C,)``; None for 1. The input's dtype, or float32 beside a half input.
        bias: Shift β, ``(C,)``; None for 0.
        training: Use the batch's statistics, and move the running ones if they are given.
        momentum: Weight of the new batch; None for the mean over all batches so far, which needs
            ``num_batches_tracked``: without, the running statistics stay.
        eps: Added to the variance; above 0 in training.
        num_batches_tracked: int64 scalar, counted up in training.
        activation: None, ``relu``, ``leaky_relu`` (0.01), ``relu6``, ``sigmoid``, ``tanh``,
            ``silu``, ``gelu`` (exact form) or ``hardswish``.
        residual: Added before the activation; the input's shape and dtype.
        avg_pool: Size of the windows, side by side, whose averages are returned of images, as by
            `torch.nn.functional.avg_pool2d`; 1 for none.
        nonfinite: What a batch with NaN or infinite statistics does to the running ones:
            ``propagate`` (as torch), ``skip`` (they keep their values, and the counter too) or
            ``raise``.
        backend: ``auto``, ``eager``, ``native`` or ``torch``; see `backend.resolve_backend`.

    Returns:
        The input's shape, with H and W divided by ``avg_pool``, its dtype and memory format.

    Raises:
        ValueError: If there is one value per channel in training, ``eps`` is out of range, or an
            argument is unknown.
        RuntimeError: If sizes or dtypes do not fit together.
        NotImplementedError: If the input is not floating.
        TypeError: If ``residual`` is no tensor.
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
    rung = "torch" if is_recorded() else resolve_backend(backend, input)
    if rung == "torch" and training and is_transformed():
        rung = "eager"  # torch's kernel moves the running statistics itself, which a transform refuses
    check_arguments(input, running_mean, running_var, weight, bias, residual, training, eps, nonfinite)
    if training and input.numel() == input.shape[1] > 0:
        refuse_one_value(input)
    if avg_pool != 1:
        check_windows(avg_pool, input)
    within = avg_pool if avg_pool == 1 or is_within(rung, input, residual, avg_pool) else 1
    running: autograd.Running | None = None
    if running_mean is not None and running_var is not None:
        running = (running_mean, running_var, num_batches_tracked, momentum, nonfinite == "skip")
    if rung == "torch":
        output = _torch_batch_norm(input, weight, bias, training, eps, nonfinite, running)
        output = activate(output if residual is None else output + residual, code)
    elif not training:
        assert running is not None  # check_arguments
        statistics = running[:2]
        output = autograd.normalize(input, weight, bias, residual, *statistics, eps, code, within, rung)
    else:
        batch = (input, weight, bias, residual, eps, code, within, rung)
        if nonfinite != "raise":
            output = autograd.normalize_batch(*batch, running)[0]
        else:
            output, mean, var = autograd.normalize_batch(*batch, None, measured=True)
            if input.numel():  # an empty batch has statistics of none
                refuse_nonfinite(mean, var)
            if running is not None:
                autograd.update_running(input, mean, var, rung, running)
    return output if within == avg_pool else average(output, avg_pool)


def _torch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    nonfinite: str,
    running: autograd.Running | None,
) -> Tensor:
    """Torch's own kernel, with our choices for momentum None and for batches that are not finite."""
    weight, bias = (None if p is None else _readable(p) for p in (weight, bias))
    if not training or running is None:
        mean, var = (None, None) if running is None else map(_readable, running[:2])
        if nonfinite != "raise" or not training:
            return F.batch_norm(input, mean, var, weight, bias, training, 0.0, eps)
    elif nonfinite == "propagate" and running[3] is not None and all(_readable(r) is r for r in running[:2]):
        mean, var, counter = running[:3]
        if counter is not None:
            counter.add_(1)
        return F.batch_norm(input, mean, var, weight, bias, training, running[3], eps)
    output, mean, var = _torch_forward(input, weight, bias, eps)
    if nonfinite == "raise":
        refuse_nonfinite(mean, var)
    if running is not None:
        autograd.update_running(input, mean, var, "torch", running)
    return output


def _readable(values: Tensor) -> Tensor:
    """Parameters and statistics as torch's kernel reads them rightly, themselves where they are so.

    Beside half data it takes those of one dtype only, and in 2.13 it reads strided ones past their end.
    """
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    return values if values.is_contiguous() else values.contiguous()


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
