"""Which normalization a network is built with: one factory, so that all its versions are one network.

A network has *places* of normalization, modules called as ``norm(x)`` or ``norm(x, residual=y)`` that
normalize, add and activate. The factory decides what stands there. The places have the same names in
every version, also in the one without normalization, so a hook on ``norm1`` sees the same thing.
"""

import dataclasses
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from batchnorm import nn as ours
from batchnorm.nn.statistics import Statistics
from batchnorm.ops import check_backend
from batchnorm.ops.activations import activate, activation_code

__all__ = ["NORMS", "NormAct", "Norms", "norm_sites"]


class NormAct(nn.Module):
    """Any normalization, then the sum with a residual, then an activation, as separate operations.

    Args:
        norm: Called with the input only; `torch.nn.Identity` for none.
        activation: As in `batchnorm.BatchNorm2d`.

    Example:
        >>> import torch
        >>> place = NormAct(nn.Identity(), "relu")
        >>> place(torch.tensor([-1.0, 2.0]), residual=torch.tensor([3.0, -3.0])).tolist()
        [2.0, 0.0]
    """

    def __init__(self, norm: nn.Module, activation: str | None = None) -> None:
        super().__init__()
        activation_code(activation)
        self.norm = norm
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return act(norm(input) + residual), in the input's shape."""
        output: Tensor = self.norm(input)
        if residual is not None:
            output = output + residual
        return activate(output, activation_code(self.activation))

    def extra_repr(self) -> str:
        """The activation; the norm shows itself."""
        return f"activation={self.activation!r}"


@dataclasses.dataclass(frozen=True)
class Norms:
    """Makes the normalizations of a network.

    Attributes:
        kind: ``none``; ``batch``, our fused layer; ``torch``, torch.nn's layer and then the
            activation; ``scratch``, our layer in plain torch operations.
        backend: Of ``batch``; the other kinds have their own. See `batchnorm.ops.BACKENDS`.
        stats: Of ``batch`` and ``scratch``; see `batchnorm.nn.statistics`.

    Raises:
        ValueError: If one of them is unknown, or ``stats`` is given for a kind that has none.
    """

    kind: str = "batch"
    backend: str = "auto"
    stats: Statistics | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.kind not in _MAKERS:
            raise ValueError(f"models: norm expected one of {', '.join(_MAKERS)}, got {self.kind!r}")
        check_backend(self.backend)
        if self.stats is not None and self.kind not in ("batch", "scratch"):
            raise ValueError(f"models: stats expected None for norm {self.kind!r}, got {self.stats!r}")

    @property
    def shifts(self) -> bool:
        """Whether a place adds a bias of its own, which makes one in the layer before it redundant."""
        return self.kind != "none"

    def __call__(self, rank: int, features: int, activation: str | None = None) -> nn.Module:
        """Make one place.

        Args:
            rank: Number of spatial dimensions counted as torch.nn does: 1 for ``(N, C)`` and
                ``(N, C, L)``, 2 for images, 3 for volumes.
            features: C.
            activation: Applied last.
        """
        return _MAKERS[self.kind](self, rank, features, activation)


_OURS = {1: ours.BatchNorm1d, 2: ours.BatchNorm2d, 3: ours.BatchNorm3d}
_TORCHS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _none(norms: Norms, rank: int, features: int, activation: str | None) -> nn.Module:
    return NormAct(nn.Identity(), activation)


def _batch(norms: Norms, rank: int, features: int, activation: str | None) -> nn.Module:
    return _OURS[rank](features, activation=activation, stats=norms.stats, backend=norms.backend)


def _torch(norms: Norms, rank: int, features: int, activation: str | None) -> nn.Module:
    return NormAct(_TORCHS[rank](features), activation)


def _scratch(norms: Norms, rank: int, features: int, activation: str | None) -> nn.Module:
    return _batch(dataclasses.replace(norms, backend="eager"), rank, features, activation)


# A further kind is one more function here.
_MAKERS: Mapping[str, Callable[[Norms, int, int, str | None], nn.Module]] = {
    "none": _none,
    "batch": _batch,
    "torch": _torch,
    "scratch": _scratch,
}

NORMS = tuple(_MAKERS)


def norm_sites(model: nn.Module) -> dict[str, nn.Module]:
    """The places of normalization by name, in the order of the model's definition.

    Args:
        model: One of ours, with whatever normalization; of another model, its batch-norm layers.

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
