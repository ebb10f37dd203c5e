"""The pieces of a step whose statistics are not simply the batch's own, in plain torch operations.

Statistics of parts of the batch, of several processes together, corrected towards the running ones:
the pieces are the same, and what differs is computed between them on a few values a channel.

- `moments`: count, mean and M2 = Σ(x − mean)² of each part.
- `forward_apply`: y = act(z) with z = (x − mean) · scale + shift + residual.
- `backward_reduce`: Σ dz and Σ dz · (x − mean) of each part, dz being the gradient of z.
- `backward_apply`: dx = dz · scale + (x − mean) · slope + offset.

Legend: N samples, C channels, P parts. A part is ``sizes[p]`` consecutive samples. Statistics and
coefficients are (P, C), one row a part. Sums are float64, so that adding them up over processes or parts
costs nothing. As in `eager`, each function is differentiable and computes half precision in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from batchnorm.ops.activations import activate, activation_derivative
from batchnorm.ops.backend import is_recorded
from batchnorm.ops.eager import accumulation_dtype, as_output, sample_sums

__all__ = ["backward_apply", "backward_reduce", "forward_apply", "moments", "numbered", "weighted_moments"]


def numbered(sizes: Sequence[int], device: torch.device) -> Tensor:
    """The number of the part of each sample, 0 for the first ``sizes[0]`` of them; (N,)."""
    # a size may be a symbol, and ONNX has no repeat_interleave of a known size
    if is_recorded() or torch.compiler.is_compiling():
        return torch.cat([torch.full((size,), part, device=device) for part, size in enumerate(sizes)])
    numbers, times = torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device)
    return torch.repeat_interleave(numbers, times, output_size=sum(sizes))


def _part_of_sample(sizes: Sequence[int], input: Tensor) -> Tensor:
    if sum(sizes) != input.shape[0]:
        raise RuntimeError(f"parts: sizes expected {input.shape[0]} samples, got {sum(sizes)}")
    return numbered(sizes, input.device)


def _spread(rows: Tensor, part: Tensor, input: Tensor) -> Tensor:
    """A row of (P, C) for each sample, shaped to broadcast against ``input``, in its accumulation dtype."""
    return rows.to(accumulation_dtype(input))[part].view(*part.shape, rows.shape[1], *[1] * (input.dim() - 2))


def _part_sums(values: Tensor, part: Tensor, parts: int) -> Tensor:
    """Sum over space and over the samples of each part, (P, C) in float64."""
    of_samples = sample_sums(values).double()
    return of_samples.new_zeros(parts, values.shape[1]).index_add(0, part, of_samples)


def moments(input: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations from it, of each part.

    Args:
        input: Shape ``(N, C, *spatial)``, floating.
        sizes: Samples of each part, N together; an empty part has zeros.

    Returns:
        ``count`` ``(P,)``, ``mean`` and ``m2`` ``(P, C)``; float64. The biased variance is m2 / count.

    Numerics:
        As `eager.moments`: two passes, and what rounding the mean left is taken out again.
    """
    x, part, parts = input.to(accumulation_dtype(input)), _part_of_sample(sizes, input), len(sizes)
    values = input.shape[2:].numel()
    count = torch.tensor([size * values for size in sizes], dtype=torch.float64, device=input.device)
    per_value = 1 / count.clamp_min(1)[:, None]
    rounded = (_part_sums(x, part, parts) * per_value).to(x.dtype).detach()
    centred = x - _spread(rounded, part, input)
    left = _part_sums(centred, part, parts)
    m2 = _part_sums(centred * centred, part, parts) - left * left * per_value
    return count, rounded + left * per_value, m2.clamp_min(0)


def weighted_moments(
    input: Tensor, sizes: Sequence[int], weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `moments`, each value having its weight.

    Args:
        input: Shape ``(N, C, *spatial)``; what weighs 0 may be NaN.
        sizes: As in `moments`.
        weights: Broadcastable to ``input``, at least 0.

    Returns:
        Σ w and Σ w², each ``(P, 1)`` or, if the weights differ between channels, ``(P, C)``; ``mean`` and
        ``m2``, ``(P, C)``; float64.
    """
    part, parts = _part_of_sample(sizes, input), len(sizes)
    dtype, counted = accumulation_dtype(input), weights.shape[1]
    w = weights.to(dtype).expand(input.shape[0], counted, *input.shape[2:])
    x = torch.where(weights > 0, input.to(dtype), 0)
    count, squares = (_part_sums(v, part, parts) for v in (w.double(), w.double() ** 2))
    per_value = 1 / torch.where(count > 0, count, 1)
    rounded = (_part_sums(w * x, part, parts) * per_value).to(dtype).detach()
    centred = x - _spread(rounded, part, input)
    left = _part_sums(w * centred, part, parts)
    m2 = _part_sums(w * centred * centred, part, parts) - left * left * per_value
    return count, squares, rounded + left * per_value, m2.clamp_min(0)


def _pre_activation(
    input: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, part: Tensor
) -> tuple[Tensor, Tensor]:
    """Deviation x − mean, and z."""
    centred = input.to(accumulation_dtype(input)) - _spread(mean, part, input)
    z = centred * _spread(scale, part, input) + _spread(shift, part, input)
    return centred, z if residual is None else z + residual


def forward_apply(
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    sizes: Sequence[int],
    activation: int,
) -> Tensor:
    """Return act((x − mean) · scale + shift + residual), each sample with its part's coefficients."""
    _, z = _pre_activation(input, mean, scale, shift, residual, _part_of_sample(sizes, input))
    return as_output(activate(z, activation), input)


def _through_activation(grad_output: Tensor, z: Tensor, activation: int) -> Tensor:
    grad = grad_output.to(z.dtype)
    return grad * activation_derivative(z, activation) if activation else grad


def backward_reduce(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    sizes: Sequence[int],
    activation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradients through statistics and parameters need.

    Returns:
        Σ dz and Σ dz · (x − mean), each ``(P, C)`` in float64; ``grad_residual``, empty where it would
        equal ``grad_output`` or there is no residual.
    """
    part, parts = _part_of_sample(sizes, input), len(sizes)
    centred, z = _pre_activation(input, mean, scale, shift, residual, part)
    grad = _through_activation(grad_output, z, activation)
    kept = residual is not None and activation != 0
    grad_residual = as_output(grad, input) if kept else input.new_empty((0,))
    return _part_sums(grad, part, parts), _part_sums(grad * centred, part, parts), grad_residual


def backward_apply(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    residual: Tensor | None,
    sizes: Sequence[int],
    activation: int,
) -> Tensor:
    """Return dz · scale + (x − mean) · slope + offset, each sample with its part's coefficients."""
    part = _part_of_sample(sizes, input)
    centred, z = _pre_activation(input, mean, scale, shift, residual, part)
    grad = _through_activation(grad_output, z, activation)
    through_statistics = centred * _spread(slope, part, input) + _spread(offset, part, input)
    return as_output(grad * _spread(scale, part, input) + through_statistics, input)
