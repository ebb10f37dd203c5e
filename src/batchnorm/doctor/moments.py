"""Mean and variance of what a layer is given."""

import dataclasses

import torch
from torch import Tensor

__all__ = ["Moments", "has_moments", "moments"]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Of one input of a layer, per channel; all tensors are float64 on the CPU.

    Attributes:
        mean: ``(C,)``.
        var: ``(C,)``, biased.
        item_var: ``(C,)``: unbiased variance of the samples' own means; NaN for one sample.
        count: Values per channel.
        items: Samples.
        most: Largest absolute value.
    """

    mean: Tensor
    var: Tensor
    item_var: Tensor
    count: int
    items: int
    most: float

    def is_finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(torch.isfinite(self.mean).all() & torch.isfinite(self.var).all())


@torch.no_grad()
def moments(input: Tensor) -> Moments:
    """Moments of an input ``(N, C, *spatial)`` with one value or more.

    Numerics:
        Two passes in the input's precision, float32 at least; sums over samples in float64. Good
        to 1e-3 up to a mean of 1e4 standard deviations, which is enough to judge by.

    Example:
        >>> seen = moments(torch.tensor([[1.0], [3.0]]))
        >>> seen.mean.item(), seen.var.item(), seen.item_var.item()
        (2.0, 1.0, 2.0)
    """
    values = input.detach()
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    spatial = list(range(2, values.dim()))
    item_means = (values.mean(spatial) if spatial else values).double().cpu()  # (N, C)
    mean = item_means.mean(0)
    least, most = values.aminmax()
    shape = [1, -1] + [1] * len(spatial)
    apart = values - mean.to(values.device, values.dtype).view(shape)
    norms = torch.linalg.vector_norm(apart, dim=spatial) if spatial else apart
    size = values[0, 0].numel()
    var = norms.double().cpu().square().mean(0) / size
    items = len(item_means)
    return Moments(
        mean,
        var,
        item_means.var(0) if items > 1 else torch.full_like(mean, torch.nan),
        len(values) * size,
        items,
        max(-float(least), float(most)),
    )


def has_moments(input: Tensor) -> bool:
    """Whether it has channels and values."""
    return input.dim() >= 2 and input.numel() > 0 and input.is_floating_point()
