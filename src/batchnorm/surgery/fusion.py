"""What a fusion changes: options of layers, activations that give way, code of modules."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from batchnorm.surgery.exchange import ORIGIN, Layer, become

__all__ = ["Absorbed", "Fusion"]


class Absorbed(nn.Module):
    """In the place of an activation or pooling that the batch norm before it does: returns its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input."""
        return input

    def extra_repr(self) -> str:
        """Name what stood here."""
        return str(vars(self)[ORIGIN].__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Fusion:
    """Layers that are fused together or not at all, since they share activations, poolings or code.

    Attributes:
        layers: By name.
        options: What each layer will do, as arguments of its constructor, by the same names.
        words: The same in words, with the addition.
        absorbed: Activations or poolings that give way.
        classes: The classes that modules get, to run other code.
    """

    layers: Mapping[str, Layer]
    options: Mapping[str, Mapping[str, Any]]
    words: Mapping[str, str]
    absorbed: Iterable[nn.Module]
    classes: Mapping[nn.Module, type[nn.Module]]

    def modules(self) -> list[nn.Module]:
        """All that `apply` changes."""
        return [*self.layers.values(), *self.absorbed, *self.classes]

    def apply(self) -> None:
        """Do it."""
        for name, layer in self.layers.items():
            become(layer, type(layer), **self.options[name])
        for module in self.absorbed:
            vars(module)[ORIGIN] = type(module)
            module.__class__ = Absorbed
        for module, cls in self.classes.items():
            module.__class__ = cls
