"""The result of a diagnosis."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from batchnorm.doctor.fix import FixReport, fix
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.settings import Settings
from batchnorm.doctor.wording import report_in_words
from batchnorm.records import Finding, LayerRecord

__all__ = ["LayerGap", "Origin", "Report"]


@dataclasses.dataclass(frozen=True)
class LayerGap:
    """How far one layer's prediction is from its training.

    Attributes:
        layer: Its name.
        own: Gap over what sampling explains, with the layers before it sound; NaN if not measured.
        prediction: The same as prediction meets it, with all layers at their stored statistics; NaN
            if it was not measured since nothing was suspicious.
        size: Own gap in output standard deviations.
        worst: Own ratio of the worst channel.
    """

    layer: str
    own: float
    prediction: float
    size: float
    worst: float


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Of which diagnosis a report is.

    Attributes:
        loader: Its data.
        settings: Its circumstances.
        again: Makes it once more, of another model, on these data, with these settings in place of its own.
    """

    loader: Iterable[Any] | None
    settings: Settings
    again: Callable[..., "Report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What the doctor says; ``print`` gives it in words.

    Attributes:
        findings: Gravest first; of equal ones the earliest cause first.
        withdrawn: Suspicions that data, or another finding, took back.
        skipped: Rules that were not checked, by code, with the reason.
        layers: Gaps in the order of execution, where there were data.
        explanation: Why prediction differs from training, in words; empty if it does not.
        batches: Training batches looked at.
        layers_seen: Batch-norm layers there are.
        unseen: Modules that hold a batch norm and into whose code rules could not look that ask who feeds it
            and who uses it, with the reason.
        channels: Running and measured (``population_…``) statistics of those layers, channel by channel.
    """

    findings: tuple[Finding, ...]
    withdrawn: tuple[Finding, ...]
    skipped: Mapping[str, str]
    layers: tuple[LayerGap, ...]
    explanation: str
    batches: int
    layers_seen: int
    unseen: Mapping[str, str]
    channels: tuple[LayerRecord, ...] = dataclasses.field(repr=False, compare=False)
    origin: Origin = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        """What the terminal shows."""
        return report_in_words(self)

    @property
    def severity(self) -> str | None:
        """The gravest; None without findings."""
        return self.findings[0].severity if self.findings else None

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes found, each once, in order."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))

    def fix(
        self, model: nn.Module, loader: Iterable[Any] | None = None, *, consent: Iterable[str] = ()
    ) -> tuple[nn.Module, FixReport]:
        """Mend a copy of the model, and diagnose the copy again.

        Where a fix measures statistics, all layers that are not frozen get new ones, once, after the other
        fixes.

        Args:
            model: What was diagnosed; it is left alone.
            loader: Data to measure statistics on, as many batches as the diagnosis looked at (20 if at none),
                and for the second diagnosis; None for those of the diagnosis.
            consent: Codes of rules whose fix may change numbers, as ``("BN001",)``. Safe fixes are made
                without.

        Returns:
            The mended copy, and what was done, what was not and why, and what the second diagnosis says.

        Raises:
            ValueError: If a code is unknown.

        Example:
            >>> import torch
            >>> from batchnorm.doctor import diagnose
            >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).bfloat16()
            >>> fixed, done = diagnose(model).fix(model)
            >>> done.mended[0].done, done.remaining
            ('in float32 now', ())
            >>> model[0].running_mean.dtype, fixed[0].running_mean.dtype
            (torch.bfloat16, torch.float32)
        """
        return fix(
            model,
            self.findings,
            self.origin.loader if loader is None else loader,
            self.origin.settings,
            consent,
            self.batches or Patient.limit,
            lambda *mended, **changed: self.origin.again(*mended, **changed).findings,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without channels; a number that is not finite becomes None."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "withdrawn": [finding.to_dict() for finding in self.withdrawn],
            "skipped": dict(self.skipped),
            "layers": [
                {
                    key: None if isinstance(value, float) and not math.isfinite(value) else value
                    for key, value in dataclasses.asdict(layer).items()
                }
                for layer in self.layers
            ],
            "explanation": self.explanation,
            "batches": self.batches,
            "layers_seen": self.layers_seen,
            "unseen": dict(self.unseen),
        }
