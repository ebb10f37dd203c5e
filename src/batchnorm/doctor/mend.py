"""Mending: what the rules' ``mend`` functions have in common. They work on a copy, never on the only one."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import nn

from batchnorm.doctor.settings import Settings
from batchnorm.surgery import recalibrate

__all__ = ["RECALIBRATE", "Repair"]

RECALIBRATE = "batchnorm.recalibrate(model, loader) measures the statistics anew on training data"


@dataclasses.dataclass(frozen=True, eq=False)
class Repair:
    """A copy of the model, and what it may be mended with.

    Attributes:
        model: The copy; mending changes it.
        loader: Training data; None without.
        settings: As of the diagnosis.
    """

    model: nn.Module
    loader: Iterable[Any] | None
    settings: Settings

    def layer(self, name: str | None) -> nn.Module:
        """The module of a layer."""
        assert name is not None
        return self.model.get_submodule(name)

    def recalibrate(self, layer: str | None) -> str:
        """New statistics for a layer, or for all that are not frozen.

        Raises:
            ValueError: Without data.
        """
        if self.loader is None:
            raise ValueError("fix: loader expected training data to measure statistics on, got none")
        chosen = None if layer is None else [layer]
        forward = self.settings.forward_fn
        report = recalibrate(self.model, self.loader, layers=chosen, forward_fn=forward)
        most = max(report.layers, key=lambda change: change.mean_shift)
        return (
            f"recalibrated {len(report.layers)} layers from {most.samples} samples; "
            f"largest shift {most.mean_shift:.3g} standard deviations in {most.name or 'the layer'}"
        )
