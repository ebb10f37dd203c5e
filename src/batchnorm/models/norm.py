"""The normalization places of a network, filled with one kind of layer or another.

A place is a module called as ``place(x)`` or ``place(x, residual=shortcut)``; it normalizes, adds,
activates and averages over windows. Its name and its input are the same whatever fills it, so networks
with and without batch normalization can be compared layer by layer.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor, nn

from batchnorm.nn import BatchNorm1d, BatchNorm2d
from batchnorm.nn.statistics import Statistics
from batchnorm.ops import check_backend
from batchnorm.ops.activations import activate, activation_code
from batchnorm.ops.pooling import average

__all__ = ["NORMS", "NormAct", "NormFactory", "is_empty", "norm_factory", "norm_sites"]


class NormFactory(Protocol):
    """Makes a place."""

    def __call__(self, channels: int, spatial: int, activation: str | None, avg_pool: int = 1) -> nn.Module:
        """Return one for so many channels and spatial dimensions, 0 or 2; see `batchnorm.BatchNorm2d`."""


class NormAct(nn.Module):
    """A place whose layer only normalizes: pool(act(norm(x) + residual)), as separate operations.

    Args:
        norm: Any module from a tensor to one of the same shape; `torch.nn.Identity` for none.
        activation: As in `batchnorm.ops.ACTIVATIONS`.
        avg_pool: Size of the windows that are averaged of images; 1 for none.

    Example:
        >>> import torch
        >>> place = NormAct(nn.Identity(), "relu")
        >>> place(torch.tensor([-1.0, 2.0]), residual=torch.tensor([3.0, -3.0])).tolist()
        [2.0, 0.0]
    """

    def __init__(self, norm: nn.Module, activation: str | None = None, avg_pool: int = 1) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation
        self.avg_pool = avg_pool
        self._code = activation_code(activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize, add, activate, average."""
        output: Tensor = self.norm(input)
        output = activate(output if residual is None else output + residual, self._code)
        return average(output, self.avg_pool)

    def extra_repr(self) -> str:
        """The activation and the windows; the layer shows itself."""
        return f"activation={self.activation!r}" + (
            "" if self.avg_pool == 1 else f", avg_pool={self.avg_pool}"
        )


def norm_factory(
    norm: str | NormFactory, backend: str = "auto", stats: Statistics | None = None
) -> NormFactory:
    """The maker of places for one kind of layer.

    Args:
        norm: ``none`` (the identity), ``batch`` (our layer, one kernel), ``torch`` (torch.nn's layer),
            ``scratch`` (our layer in plain torch operations), or a maker, returned as it is.
        backend: Of ``batch``; the others ignore it, so that one setting serves all of them.
        stats: Of ``batch`` and ``scratch``; see `batchnorm.nn.statistics`.

    Raises:
        ValueError: If one of them is unknown, or ``stats`` is given for a kind that has none.
    """
    check_backend(backend)
    if not callable(norm) and norm not in _MAKERS:
        raise ValueError(f"models: norm expected one of {', '.join(NORMS)}, got {norm!r}")
    if stats is not None and norm not in ("batch", "scratch"):
        raise ValueError(f"models: stats expected None for norm {norm!r}, got {stats!r}")
    return norm if callable(norm) else _MAKERS[norm](backend, stats)


def _none(backend: str, stats: Statistics | None) -> NormFactory:
    return lambda channels, spatial, activation, avg_pool=1: NormAct(nn.Identity(), activation, avg_pool)


def _batch(backend: str, stats: Statistics | None) -> NormFactory:
    return lambda channels, spatial, activation, avg_pool=1: (BatchNorm2d if spatial else BatchNorm1d)(
        channels, activation=activation, avg_pool=avg_pool, stats=stats, backend=backend
    )


def _torch(backend: str, stats: Statistics | None) -> NormFactory:
    return lambda channels, spatial, activation, avg_pool=1: NormAct(
        (nn.BatchNorm2d if spatial else nn.BatchNorm1d)(channels), activation, avg_pool
    )


def _scratch(backend: str, stats: Statistics | None) -> NormFactory:
    return _batch("eager", stats)


# A further kind is one more function here.
_MAKERS: Mapping[str, Callable[[str, Statistics | None], NormFactory]] = {
    "none": _none,
    "batch": _batch,
    "torch": _torch,
    "scratch": _scratch,
}

NORMS = tuple(_MAKERS)


def is_empty(place: nn.Module) -> bool:
    """Whether a place does not normalize: then the layer before it needs a bias of its own."""
    return isinstance(place, NormAct) and isinstance(place.norm, nn.Identity)


def norm_sites(model: nn.Module) -> dict[str, nn.Module]:
    """The normalization places of a network by name, in the order of its definition.

    Args:
        model: One of ours, whatever fills its places; of another model, its batch-norm layers.

    Example:
        >>> from batchnorm.models import build
        >>> list(norm_sites(build("lenet", norm="none")))
        ['norm1', 'norm2', 'norm3', 'norm4']
    """
    sites: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module not in inside and isinstance(module, NormAct | nn.modules.batchnorm._BatchNorm):
            sites[name] = module
            inside.update(module.modules())
    return sites
