"""What is known of the model that is diagnosed; every examination is made once, when first asked for."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.doctor.dropout import dropout_rates
from batchnorm.doctor.exported import ExportedNorm
from batchnorm.doctor.frozen import stays_frozen
from batchnorm.doctor.gap import INFO_RATIO, Gap, excess_of, gap_of
from batchnorm.doctor.graph import Graph, trace
from batchnorm.doctor.guard import Loan, untouched
from batchnorm.doctor.layer import Layer
from batchnorm.doctor.layers import layers_of_checkpoint, layers_of_model
from batchnorm.doctor.observe import Call
from batchnorm.doctor.passes import DataError, ModelError, Pass, run_pass
from batchnorm.doctor.settings import Settings
from batchnorm.doctor.step import calls_of_step
from batchnorm.surgery.feed import Feed
from batchnorm.surgery.population import device_of

__all__ = ["Patient", "UnavailableError"]


FEW = 16  # samples


class UnavailableError(Exception):
    """An examination that cannot be made: a training loop that is watched is not asked for more forwards."""


@dataclasses.dataclass(eq=False)
class Patient:
    """A model or a checkpoint, with data or without.

    Attributes:
        model: None for a checkpoint alone.
        state: The checkpoint, if there is no model.
        loader: Training data, as in training; None without.
        settings: What else is known.
        limit: Batches to look at.
        exported: Batch norms of an exported program, in place of a model.
    """

    model: nn.Module | None
    state: Mapping[str, Tensor] | None
    loader: Iterable[Any] | None
    settings: Settings
    limit: int = 20
    exported: tuple[ExportedNorm, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.loader, Iterator):  # several passes are made
            self.loader = list(itertools.islice(self.loader, self.limit))
        if self.model is None:
            self.layers = layers_of_checkpoint(self.state or {})
        else:
            self.layers = layers_of_model(self.model)
        if self.lazy is not None and self.loader is not None:
            raise ValueError(
                f"diagnose: model expected initialized parameters, to be run on data, got lazy {self.lazy}"
            )
        self.by_name = {layer.name: layer for layer in self.layers}

    # Without data

    @property
    def trains(self) -> bool:
        """Whether it is being trained, as far as can be seen."""
        return self.settings.optimizer is not None or (self.model is not None and self.model.training)

    @property
    def lazy(self) -> str | None:
        """A parameter that the model's first call makes; None if all are there."""
        named = () if self.model is None else self.model.named_parameters()
        return next((name for name, value in named if is_lazy(value)), None)

    @cached_property
    def graph(self) -> Graph | None:
        """The traced model; None without a model, or where it has lazy parameters or cannot be copied."""
        if self.model is None or self.lazy is not None:
            return None
        with self.lent():
            return trace(self.model, self.layers)

    @cached_property
    def dropout(self) -> dict[str, float]:
        """Rate of the dropout before a layer, where the graph shows one."""
        return {} if self.graph is None else dropout_rates(self.graph)

    @property
    def held(self) -> set[int]:
        """The ids of the parameters that the optimizer holds."""
        optimizer = self.settings.optimizer
        groups = [] if optimizer is None else optimizer.param_groups
        return {id(p) for group in groups for p in group["params"]}

    # With data

    @property
    def has_data(self) -> bool:
        """Whether forwards can be made."""
        return self.model is not None and self.loader is not None

    @property
    def has_enough(self) -> bool:
        """Whether there are batches enough to judge their spread."""
        return self.has_data and self.training.has_enough()

    @property
    def is_measured(self) -> bool:
        """Whether the training batches were looked at."""
        return self.has_data and "training" in vars(self)

    @cached_property
    def training(self) -> Pass:
        """The batches in training mode: each layer normalizes with the batch, as those before it."""
        return self.run(Loan.train)

    @cached_property
    def prediction(self) -> Pass:
        """The first batches in prediction mode."""
        return self.run(Loan.predict, self.few)

    @cached_property
    def target(self) -> Pass:
        """The target's batches in prediction mode."""
        return self.run(Loan.predict, lambda: self.feed(self.settings.target_loader))

    @cached_property
    def gaps(self) -> dict[str, Gap]:
        """Gap of the layers that normalize with the batch in training, each with layers before it sound.

        In training mode a layer's input does not depend on the statistics that layers before it
        store, so a layer is not blamed for an earlier one. Nor is one whose statistics nobody reads.
        Behind dropout they may be those of training or of prediction: the smaller gap counts.
        """
        found = {}
        for name, gap in self._trained.items():
            if not gap.reaches(INFO_RATIO):
                found[name] = gap
            elif self.reads(name):
                other = self.prediction_gaps.get(name, gap) if name in self.dropout else gap
                found[name] = min(gap, other, key=lambda gap: gap.size)
        return found

    @cached_property
    def grown_gaps(self) -> dict[str, Gap]:
        """The same if the initial statistics had no weight any more in those of each layer."""
        series = self.training.series
        gaps = {name: gap_of(self.by_name[name].without_initial(), series[name]) for name in self.gaps}
        return {name: gap for name, gap in gaps.items() if gap is not None}

    @cached_property
    def excess(self) -> float:
        """All gaps together, in standard deviations beyond what sampling explains."""
        return excess_of((gap.ratio, gap.size) for gap in self.gaps.values())

    @cached_property
    def prediction_gaps(self) -> dict[str, Gap]:
        """The same as prediction meets them: with all layers at their stored statistics.

        Empty if the model raises in prediction.
        """
        try:
            return self.predicted(self.prediction, self.by_name)
        except ModelError:
            return {}

    def predicted(self, examined: Pass, layers: Mapping[str, Layer]) -> dict[str, Gap]:
        """Gaps of layers in a pass over `few` batches, against what sampling explains in training."""
        return {
            name: dataclasses.replace(gap, expected=self._trained[name].expected)
            for name, gap in self.gaps_in(examined, layers).items()
            if name in self._trained
        }

    def reads(self, name: str) -> bool:
        """Whether prediction normalizes with a layer's statistics; True where that cannot be seen."""
        try:
            batches = self.prediction.batches
        except (UnavailableError, ModelError):
            return True
        return any(call.layer == name and not call.training for batch in batches for call in batch)

    @cached_property
    def _trained(self) -> dict[str, Gap]:
        return self.gaps_in(self.training, self.by_name)

    def gaps_in(self, examined: Pass, layers: Mapping[str, Layer]) -> dict[str, Gap]:
        """Gaps of the layers that normalize with the batch in training, in any pass."""
        found = {}
        # A frozen layer predicts as it trains, so it has no gap.
        trains = {call.layer for batch in self.training.batches for call in batch if call.training}
        for name, series in examined.series.items():
            layer = layers[name]
            judged = name in trains and layer.normalizes_batches and not layer.is_fresh()
            gap = gap_of(layer, series) if judged else None
            if gap is not None:
                found[name] = gap
        return found

    @cached_property
    def step(self) -> tuple[Call, ...]:
        """The calls of a training step, backward included; those before its error if it fails."""
        return calls_of_step(self, self.first_batch)

    @cached_property
    def first_batch(self) -> Any:
        """The first batch, moved."""
        with self.lent():  # a DataLoader draws from the global generator
            for batch in self.feed(self.loader):
                return batch
        raise DataError("diagnose: loader expected one batch or more, got none")

    def look(self, at: Callable[[str, Tensor], None]) -> None:
        """Show the first batch's inputs to the layers in training mode to a function of name and input."""
        assert self.model is not None
        with self.lent() as loan:
            loan.train()
            run_pass(self.model, self.by_name, lambda: [self.first_batch], self.forward, look=at)

    def lent(self) -> contextlib.AbstractContextManager[Loan]:
        """The model for a while; see `untouched`."""
        assert self.model is not None
        frozen = stays_frozen(self.model, self.layers, self.settings.frozen)
        modules = [layer.module for layer in frozen if layer.module is not None]
        return untouched(self.model, (self.loader, self.settings.target_loader), modules)

    def feed(self, loader: Any) -> Iterator[Any]:
        """The first batches of a loader, moved."""
        return (batch for batch, _ in self._feed(loader))

    def few(self) -> Iterator[Any]:
        """Batches enough to see prediction, whose scatter is that of training: two, and `FEW` samples."""
        samples = 0
        for number, (batch, size) in enumerate(self._feed(self.loader), 1):
            yield batch
            samples += size
            if number >= 2 and samples >= FEW:
                return

    def forward(self, model: nn.Module, batch: Any) -> object:
        """Run the model on a batch; its outputs."""
        return self._feed(self.loader).forward(model, batch)

    def _feed(self, loader: Any) -> Feed:
        assert self.model is not None
        device = self.settings.device or device_of(self.model)
        return Feed(loader, self.settings.forward_fn, device, None, self.limit, "diagnose")

    def run(
        self, prepare: Callable[[Loan], object], batches: Callable[[], Iterator[Any]] | None = None
    ) -> Pass:
        """A pass over batches, all that are looked at if none are given, of the model as it is prepared.

        Raises:
            DataError: If there are no batches, or they do not fit.
        """
        assert self.model is not None
        with self.lent() as loan:
            prepare(loan)
            feed = batches or (lambda: self.feed(self.loader))
            found = run_pass(self.model, self.by_name, feed, self.forward)
        if not found.batches and not found.refused:
            raise DataError("diagnose: loader expected one batch or more, got none")
        return found
