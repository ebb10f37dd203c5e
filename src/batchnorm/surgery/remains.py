"""What stands where a batch norm was after folding: nothing, what followed it, or one scale and shift."""

import torch
from torch import Tensor, fx, nn

__all__ = ["ACTIVATION_MODULES", "Folded", "ScaleShift"]

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}


# Both functions ask for the input's rank, which torch.fx cannot follow; wrapped, it takes them as they are.
@fx.wrap
def _expect_rank(input: Tensor, dims: int) -> Tensor:
    if input.dim() != dims:
        raise ValueError(
            f"fold: input expected {dims} dimensions, as when the model was folded, got {input.dim()}; "
            "give fold an example with such an input"
        )
    return input.contiguous()  # as a batch norm's output would be, whatever axes were moved before


@fx.wrap
def _scale_shift(input: Tensor, weight: Tensor, bias: Tensor, channel_dim: int) -> Tensor:
    shape = [1] * input.dim()
    shape[channel_dim] = -1
    return torch.addcmul(bias.view(shape), input, weight.view(shape)).to(input.dtype)


class Folded(nn.Module):
    """The rest of a batch norm whose scale and shift went into a neighbour: pool(act(input + residual)).

    Args:
        activation: As in `batchnorm.ops.ACTIVATIONS`.
        avg_pool: Size of the windows that are averaged; 1 for none.
        dims: Rank that the input must have for the neighbour's output channels to be those that the batch
            norm normalized; None for any. `torch.nn.BatchNorm1d` takes ``(N, C)`` and ``(N, C, L)``, but
            only the first may be folded into a Linear, whose channels are the last axis.
    """

    def __init__(self, activation: str | None = None, avg_pool: int = 1, dims: int | None = None) -> None:
        super().__init__()
        self.activation = nn.Identity() if activation is None else ACTIVATION_MODULES[activation]()
        if avg_pool > 1:
            self.activation = nn.Sequential(self.activation, nn.AvgPool2d(avg_pool))
        self.dims = dims

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Check the rank, add, activate, average."""
        if self.dims is not None:
            input = _expect_rank(input, self.dims)
        return self._finish(input, residual)

    def _finish(self, output: Tensor, residual: Tensor | None) -> Tensor:
        if residual is not None:
            output = output + residual
        activated: Tensor = self.activation(output)
        return activated

    def extra_repr(self) -> str:
        """The rank, if it matters."""
        return "" if self.dims is None else f"dims={self.dims}"


class ScaleShift(Folded):
    """A batch norm that predicts, in one step: pool(act(input · weight + bias + residual)).

    Args:
        weight: Scale per channel, ``(C,)``.
        bias: Shift per channel, ``(C,)``.
        activation: As in `batchnorm.ops.ACTIVATIONS`.
        avg_pool: Size of the windows that are averaged; 1 for none.
        channel_dim: Axis of the channels, 1 or -1.

    Shape:
        ``(N, C, *spatial)`` of any rank; the output has the input's dtype.

    Example:
        >>> layer = ScaleShift(torch.tensor([2.0]), torch.tensor([1.0]), "relu")
        >>> layer(torch.tensor([[3.0], [-4.0]])).flatten().tolist()
        [7.0, 0.0]
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        activation: str | None = None,
        avg_pool: int = 1,
        channel_dim: int = 1,
    ) -> None:
        super().__init__(activation, avg_pool)
        self.channel_dim = channel_dim
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Scale, shift, add, activate, average."""
        return self._finish(_scale_shift(input, self.weight, self.bias, self.channel_dim), residual)

    def extra_repr(self) -> str:
        """The number of channels, and where they are if not at axis 1."""
        return f"{self.weight.numel()}" + (
            "" if self.channel_dim == 1 else f", channel_dim={self.channel_dim}"
        )
