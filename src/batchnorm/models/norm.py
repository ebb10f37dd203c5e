"""The normalization places of a network, filled with one kind of layer or another.

A place is a module called as ``place(x)`` or ``place(x, residual=shortcut)``; it normalizes, adds and
activates. Its name and its input are the same whatever fills it, so networks with and without batch
normalization can be compared layer by layer.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from batchnorm.nn import BatchNorm1d, BatchNorm2d
from batchnorm.ops.activations import activate, activation_code

__all__ = ["NORMS", "NormAct", "NormFactory", "norm_factory", "norm_sites"]

NormFactory = Callable[[int, int, str | None], nn.Module]
"""Makes a place from channels, spatial dimensions (0 or 2) and the activation's name."""

NORMS = ("none", "batch", "torch", "scratch")


class NormAct(nn.Module):
    """A place whose layer only normalizes: act(norm(x) + residual).

    Args:
        norm: Any module from a tensor to one of the same shape.
        activation: As in `batchnorm.ops.ACTIVATIONS`.
    """

    def __init__(self, norm: nn.Module, activation: str | None) -> None:
        super().__init__()
        self.layer = norm
        self.activation = activation
        self._code = activation_code(activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize, add, activate."""
        output = self.layer(input)
        return activate(output if residual is None else output + residual, self._code)

    def extra_repr(self) -> str:
        """The activation; the layer shows itself."""
        return f"activation={self.activation!r}"


def norm_factory(norm: str | NormFactory, backend: str = "auto") -> NormFactory:
    """The maker of places for one kind of layer.

    Args:
        norm: ``none`` (the identity), ``batch`` (our layer, one kernel), ``torch`` (torch.nn's layer),
            ``scratch`` (our layer in plain torch operations), or a maker, returned as it is.
        backend: Of our layer.

    Raises:
        ValueError: If there is no such kind.
    """
    if callable(norm):
        return norm
    if norm not in NORMS:
        raise ValueError(f"models: norm expected one of {', '.join(NORMS)}, got {norm!r}")

    def make(channels: int, spatial: int, activation: str | None) -> nn.Module:
        if norm == "none":
            return NormAct(nn.Identity(), activation)
        if norm == "torch":
            return NormAct((nn.BatchNorm2d if spatial else nn.BatchNorm1d)(channels), activation)
        layer: Any = BatchNorm2d if spatial else BatchNorm1d
        place: nn.Module = layer(
            channels, activation=activation, backend="eager" if norm == "scratch" else backend
        )
        return place

    return make


def norm_sites(model: nn.Module) -> dict[str, nn.Module]:
    """The normalization places of one of our networks by name, in the order of registration."""
    return {
        name: module for name, module in model.named_modules() if name.rpartition(".")[2].startswith("norm")
    }
