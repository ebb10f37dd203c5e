"""Batch normalization from scratch, in plain torch operations: any device, any floating dtype.

These are the default kernels of the ops in `schema`, and the meaning that every faster kernel is
held to. Half-precision inputs are computed in float32. Each function is itself differentiable by
autograd; that is where second derivatives come from.

Legend: N batch, C channels (dimension 1), M values per channel; ``mean``, ``var``, ``weight``,
``bias`` are (C,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.ops.activations import activate, activation_derivative

__all__ = [
    "accumulation_dtype",
    "as_output",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_forward_update",
    "moments",
    "normalize",
    "normalize_backward",
    "output_format",
    "sample_sums",
    "update_running_stats",
]

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def accumulation_dtype(input: Tensor) -> torch.dtype:
    """Dtype of statistics and arithmetic: float64 for float64 input, float32 for all others."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def output_format(input: Tensor) -> torch.memory_format:
    """Memory format of outputs: channels_last if the input is so and not contiguous too.

    Within `torch.func.vmap` nobody is told the layout that a tensor has; it has none but the usual one.
    """
    if not input.is_contiguous() and not torch._C._are_functorch_transforms_active():
        if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def _channel_sum(values: Tensor) -> Tensor:
    """Sum over all but the channels, first along each sample.

    Torch sums pairwise along one inner run only; a single sum over several dimensions adds up a long
    row of runs one after the other, and is off by hundreds of roundings.
    """
    return sample_sums(values).sum(0)


def sample_sums(values: Tensor) -> Tensor:
    """Sum over the positions of each sample, (N, C)."""
    if values.dim() == 2:
        return values
    # torch's batched gradients know reshape and not flatten
    return values.reshape(*values.shape[:2], values.shape[2:].numel()).sum(2)


def _count(input: Tensor) -> int:
    """M, values per channel."""
    return input.numel() // max(input.shape[1], 1)


def _per_channel(values: Tensor, input: Tensor) -> Tensor:
    """View (C,) so that it broadcasts along dimension 1 of ``input``, in the accumulation dtype."""
    return values.to(accumulation_dtype(input)).view(-1, *[1] * (input.dim() - 2))


def as_output(values: Tensor, input: Tensor) -> Tensor:
    """Cast and lay out as an output for ``input`` is."""
    return values.to(input.dtype).contiguous(memory_format=output_format(input))


def moments(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel.

    Args:
        input: Shape ``(N, C, *spatial)``, floating.

    Returns:
        ``mean`` and ``var``, each ``(C,)`` in the accumulation dtype.

    Numerics:
        Two passes with torch's pairwise sums. The mean is rounded once; the second pass takes out
        what that rounding left, so a large mean costs no digits of the variance.
    """
    x, count = input.to(accumulation_dtype(input)), _count(input)
    mean = _channel_sum(x) / count
    centred = x - _per_channel(mean, input)
    var = _channel_sum(centred * centred) / count - (_channel_sum(centred) / count) ** 2
    return mean, var.clamp_min(0)


def _normalized(input: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    x = input.to(accumulation_dtype(input))
    return (x - _per_channel(mean, input)) * torch.rsqrt(_per_channel(var, input) + eps)


def _scale(var: Tensor, weight: Tensor | None, eps: float, input: Tensor) -> Tensor:
    """The factor weight / √(var + eps), along dimension 1 of ``input``."""
    invstd = torch.rsqrt(_per_channel(var, input) + eps)
    return invstd if weight is None else invstd * _per_channel(weight, input)


def _affine(x_hat: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """The pre-activation z = weight · x_hat + bias + residual."""
    z = x_hat if weight is None else x_hat * _per_channel(weight, x_hat)
    if bias is not None:
        z = z + _per_channel(bias, x_hat)
    return z if residual is None else z + residual


def normalize(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> Tensor:
    """Normalize with given statistics: act(weight · (x − mean) / √(var + eps) + bias + residual).

    With ``avg_pool`` above 1 return the averages of windows of that size, of which an image has whole ones.
    """
    y = activate(_affine(_normalized(input, mean, var, eps), weight, bias, residual), activation)
    return as_output(y if avg_pool == 1 else F.avg_pool2d(y, avg_pool), input)


def batch_norm_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize with the batch's own statistics; returns output, ``mean`` and biased ``var``."""
    mean, var = moments(input)
    return normalize(input, mean, var, weight, bias, residual, eps, activation, avg_pool), mean, var


def _through_affine(
    grad_output: Tensor,
    x_hat: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    avg_pool: int = 1,
) -> Tensor:
    """Gradient of the pre-activation, in the accumulation dtype."""
    grad = grad_output.to(x_hat.dtype)
    if avg_pool > 1:
        n, c, h, w = grad.shape
        windows = (grad / avg_pool**2)[..., :, None, :, None].expand(n, c, h, avg_pool, w, avg_pool)
        grad = windows.reshape(n, c, h * avg_pool, w * avg_pool)
    if activation:
        grad = grad * activation_derivative(_affine(x_hat, weight, bias, residual), activation)
    return grad


def _grad_residual(grad: Tensor, input: Tensor, residual: Tensor | None, activation: int) -> Tensor:
    if residual is None or activation == 0:
        return input.new_empty((0,))
    return as_output(grad, input)


def normalize_backward(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> Gradients:
    """Backward of `normalize`, the statistics being constants.

    Returns:
        ``grad_input``; ``grad_weight`` and ``grad_bias``, each ``(C,)`` in the accumulation dtype;
        ``grad_residual``, empty where it would equal ``grad_output`` or there is no residual.
    """
    x_hat = _normalized(input, mean, var, eps)
    grad = _through_affine(grad_output, x_hat, weight, bias, residual, activation, avg_pool)
    grad_input = as_output(grad * _scale(var, weight, eps, input), input)
    grad_weight, grad_bias = _channel_sum(grad * x_hat), _channel_sum(grad)
    return grad_input, grad_weight, grad_bias, _grad_residual(grad, input, residual, activation)


def batch_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> Gradients:
    """Backward of `batch_norm_forward`, through the statistics too.

    With g the gradient of the pre-activation and averages over a channel's M values,
    grad_input = weight / √(var + eps) · (g − mean(g) − x_hat · mean(g · x_hat)).

    Returns:
        As `normalize_backward`.
    """
    x_hat = _normalized(input, mean, var, eps)
    grad = _through_affine(grad_output, x_hat, weight, bias, residual, activation, avg_pool)
    grad_weight, grad_bias = _channel_sum(grad * x_hat), _channel_sum(grad)
    count = max(_count(input), 1)
    centred = grad - _per_channel(grad_bias / count, input) - x_hat * _per_channel(grad_weight / count, input)
    grad_input = as_output(centred * _scale(var, weight, eps, input), input)
    return grad_input, grad_weight, grad_bias, _grad_residual(grad, input, residual, activation)


def update_running_stats(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    mean: Tensor,
    var: Tensor,
    count: int,
    momentum: float | None,
    skip_nonfinite: bool,
) -> None:
    """Move the running statistics towards a batch's, in place.

    running ← (1 − momentum) · running + momentum · batch, with the unbiased variance
    var · count / (count − 1). Counts the batch first.

    Args:
        running_mean: ``(C,)``, changed.
        running_var: ``(C,)``, changed.
        num_batches_tracked: int64 scalar, changed, or None.
        mean: The batch's.
        var: The batch's biased variance.
        count: M, values per channel. An empty batch is counted and changes nothing else.
        momentum: Weight of the new batch; None for the cumulative mean, 1 / batches so far.
        skip_nonfinite: Leave everything, the counter too, if any of ``mean``, ``var`` is not finite.
    """
    usable = torch.isfinite(mean).all() & torch.isfinite(var).all() if skip_nonfinite and count else None
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1 if usable is None else usable)
    if count == 0:
        return
    new: float | Tensor
    if momentum is not None:
        new = momentum
    else:
        new = 0.0 if num_batches_tracked is None else 1 / num_batches_tracked.to(mean.dtype)
    unbiased = var * (count / (count - 1)) if count > 1 else var
    for running, batch in ((running_mean, mean), (running_var, unbiased)):
        moved = (1 - new) * running + new * batch
        running.copy_(moved if usable is None else torch.where(usable, moved, running))


def batch_norm_forward_update(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    eps: float,
    activation: int,
    momentum: float | None,
    skip_nonfinite: bool,
    avg_pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """`batch_norm_forward`, then `update_running_stats` with what it found."""
    output, mean, var = batch_norm_forward(input, weight, bias, residual, eps, activation, avg_pool)
    update_running_stats(
        running_mean,
        running_var,
        num_batches_tracked,
        mean,
        var,
        _count(input),
        momentum,
        skip_nonfinite,
    )
    return output, mean, var
