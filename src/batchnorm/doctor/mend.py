"""Mending: what the rules' ``mend`` functions have in common. They work on a copy, never on the only one."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import nn

from batchnorm.doctor.frozen import stays_frozen
from batchnorm.doctor.layer import Layer
from batchnorm.doctor.layers import layers_of_model
from batchnorm.doctor.settings import Settings
from batchnorm.surgery import RecalibrationReport, recalibrate
from batchnorm.surgery.layers import choose_layers

__all__ = ["ASKED", "RECALIBRATE", "Repair"]

RECALIBRATE = "batchnorm.recalibrate(model, loader) measures the statistics anew on training data"
ASKED = "statistics to be measured anew"  # until it is known what came of it


@dataclasses.dataclass(frozen=True, eq=False)
class Repair:
    """A copy of the model, and what it may be mended with.

    Attributes:
        model: The copy; mending changes it.
        loader: Training data; None without.
        settings: As of the diagnosis.
        batches: How many batches to measure statistics on; None for all.
        asked: Layers for which `recalibrate` was called.
        changed: Settings that mending made others, for the second diagnosis.
    """

    model: nn.Module
    loader: Iterable[Any] | None
    settings: Settings
    batches: int | None = None
    asked: list[str | None] = dataclasses.field(default_factory=list)
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)

    def layer(self, name: str | None) -> nn.Module:
        """The module of a layer."""
        assert name is not None
        return self.model.get_submodule(name)

    def known(self, name: str | None) -> Layer:
        """What is known of a layer now."""
        return next(layer for layer in layers_of_model(self.model) if layer.name == name)

    def recalibrate(self, layer: str | None) -> str:
        """Ask for new statistics of a layer, or of all that are not frozen; `measure` takes them.

        Raises:
            ValueError: Without data, or if the layer cannot have new statistics.
        """
        if self.loader is None:
            raise ValueError("fix: loader expected training data to measure statistics on, got none")
        choose_layers(self.model, None if layer is None else [layer])
        self.asked.append(layer)
        return ASKED

    def measure(self) -> RecalibrationReport:
        """New statistics for the layers that were asked for and all that are not frozen, in one go.

        What a layer is given depends on the statistics of those before it: measured by itself, it would
        be fitted to what is wrong there.

        Raises:
            ValueError: As `recalibrate` of the surgery.
        """
        assert self.loader is not None
        frozen = stays_frozen(self.model, layers_of_model(self.model), self.settings.frozen)
        chosen = choose_layers(self.model).layers.keys() - {layer.name for layer in frozen}
        named = {layer for layer in self.asked if layer is not None}
        return recalibrate(
            self.model,
            self.loader,
            layers=sorted(chosen | named),
            forward_fn=self.settings.forward_fn,
            device=self.settings.device,
            batches=self.batches,
        )
