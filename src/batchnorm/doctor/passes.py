"""A run over some batches, with what every layer was given in each."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.moments import Moments
from batchnorm.doctor.observe import Call, Observer

__all__ = ["ENOUGH", "DataError", "ModelError", "Pass", "Series", "run_pass"]

ENOUGH = 8  # batches; the spread between fewer says little


class DataError(ValueError):
    """Data that cannot be diagnosed with: the owner's fault, and no rule's."""


class ModelError(DataError):
    """The model raised on a batch: the owner's fault, or that of a model whose numbers are broken."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Moments of one layer's inputs, batch by batch; float64.

    Attributes:
        mean: ``(B, C)``.
        var: ``(B, C)``, biased.
        item_var: ``(B, C)``: variance of the samples' means.
        count: Values per channel, ``(B,)``.
        items: Samples, ``(B,)``.
    """

    mean: Tensor
    var: Tensor
    item_var: Tensor
    count: Tensor
    items: Tensor

    @property
    def within(self) -> Tensor:
        """Mean variance within batches, ``(C,)``."""
        return self.var.mean(0)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of all values, ``(C,)`` each."""
        weight = (self.count / self.count.sum()).unsqueeze(1)
        mean = (weight * self.mean).sum(0)
        var = (weight * (self.var + (self.mean - mean).square())).sum(0)
        total = self.count.sum()
        return mean, var * total / (total - 1).clamp_min(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """What a run over the data showed.

    Attributes:
        batches: The calls of layers, batch by batch, in order.
        strangers: Classes of batch-norm layers that are not in the module tree, by the line that calls them.
        refused: Layers that were given one value per channel in training, with the input's shape.
        inputs: Moments of the model's own inputs.
        moving: Whether the weights moved from batch to batch, and the layers' inputs with them.
    """

    batches: tuple[tuple[Call, ...], ...]
    strangers: Mapping[str, str]
    refused: Mapping[str, tuple[int, ...]]
    inputs: tuple[Moments, ...] = ()
    moving: bool = False

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Layers in the order of their first call."""
        return tuple(dict.fromkeys(call.layer for batch in self.batches for call in batch))

    @cached_property
    def series(self) -> dict[str, Series]:
        """By layer; batches that are not finite are left out, several calls in a batch are one."""
        found: dict[str, Series] = {}
        for name in self.order:
            merged = [
                _merge(seen)
                for batch in self.batches
                if (seen := [c.moments for c in batch if c.layer == name and c.moments is not None])
            ]
            series = _series(merged)
            if series is not None:
                found[name] = series
        return found

    @cached_property
    def input_series(self) -> Series | None:
        """Of the model's own inputs; None where they have no channels, or not always the same."""
        return _series(self.inputs) if len({m.mean.shape for m in self.inputs}) == 1 else None

    def worth(self, layer: str) -> float:
        """Independent values per channel that a batch has: on maps, whose pixels are alike, fewer than all.

        The variance within batches over that of their means, where there are batches enough to tell.
        """
        series = self.series[layer]
        count, items = float(series.count.median()), float(series.items.median())
        if count <= items or self.moving or not self.has_enough():
            return count
        return min(count, float((series.within / series.mean.var(0)).nanmedian()))

    def has_enough(self) -> bool:
        """Whether there are batches enough to judge their spread."""
        return len(self.batches) >= ENOUGH


def _series(parts: Iterable[Moments]) -> Series | None:
    finite = [m for m in parts if m.is_finite()]
    if not finite:
        return None
    return Series(
        torch.stack([m.mean for m in finite]),
        torch.stack([m.var for m in finite]),
        torch.stack([m.item_var for m in finite]),
        torch.tensor([m.count for m in finite], dtype=torch.float64),
        torch.tensor([m.items for m in finite], dtype=torch.float64),
    )


def _merge(parts: list[Moments]) -> Moments:
    if len(parts) == 1:
        return parts[0]
    count = sum(m.count for m in parts)
    mean = sum((m.mean * (m.count / count) for m in parts), torch.zeros_like(parts[0].mean))
    var = sum(((m.var + (m.mean - mean).square()) * (m.count / count) for m in parts), torch.zeros_like(mean))
    item_var = torch.stack([m.item_var for m in parts]).mean(0)
    return Moments(mean, var, item_var, count, sum(m.items for m in parts), max(m.most for m in parts))


def run_pass(
    model: nn.Module,
    layers: Mapping[str, Layer],
    feed: Callable[[], Iterable[Any]],
    forward: Callable[[nn.Module, Any], object],
    *,
    look: Callable[[str, Tensor], None] | None = None,
) -> Pass:
    """Run the model over batches.

    Args:
        model: Lent, in the modes wanted.
        layers: To be watched, by name.
        feed: Yields the batches.
        forward: Runs the model on one.
        look: As in `Observer`.

    Raises:
        ModelError: If a batch does not fit the model.
    """
    batches: list[tuple[Call, ...]] = []
    refused: dict[str, tuple[int, ...]] = {}
    with Observer(model, layers, look).hooked() as observer:
        for batch in feed():
            observer.calls = []
            observer.begin()
            try:
                forward(model, batch)
            except Exception as error:
                single = _single(observer.calls)
                if single is None:
                    raise ModelError(
                        "diagnose: loader expected batches that the model takes, got "
                        f"{type(error).__name__}: {error}"
                    ) from error
                refused[single.layer] = single.shape
                continue
            batches.append(tuple(observer.calls))
        return Pass(tuple(batches), observer.strangers, refused, tuple(observer.inputs))


def _single(calls: list[Call]) -> Call | None:
    """The last call, if it had one value per channel to train with."""
    last = calls[-1] if calls else None
    if last is None or last.moments is None:
        return None
    return last if last.training and last.moments.count == 1 else None
