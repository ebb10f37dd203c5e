"""Which layers are meant to be frozen, as far as names and gradients tell."""

from collections.abc import Iterable, Sequence

from torch import nn

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.settings import belongs

__all__ = ["named", "stays_frozen", "without_grad"]


def named(layer: Layer, frozen: Iterable[str]) -> bool:
    """Whether the user calls the layer frozen."""
    return belongs(layer.name, frozen)


def without_grad(layer: Layer) -> bool:
    """Whether weight and bias exist and need no gradient."""
    parameters = [] if layer.module is None else list(layer.module.parameters(recurse=False))
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def stays_frozen(model: nn.Module, layers: Iterable[Layer], frozen: Sequence[str]) -> list[Layer]:
    """Layers that its training kept in prediction mode, of a model that is in prediction mode as a whole.

    There the modes tell nothing. A layer without gradients counts if the model has others with gradients: of
    one that has none at all, they were taken off for prediction.

    Args:
        model: Whose they are.
        layers: All of them.
        frozen: Names of modules that the user calls frozen.
    """
    if model.training:
        return []
    trains = any(p.requires_grad for p in model.parameters())
    return [layer for layer in layers if named(layer, frozen) or (trains and without_grad(layer))]
