"""The result of a diagnosis."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from batchnorm.records import Finding

__all__ = ["LayerGap", "Report"]


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


@dataclasses.dataclass(frozen=True)
class Report:
    """What the doctor says.

    Attributes:
        findings: Gravest first; of equal ones the earliest cause first.
        withdrawn: Suspicions that data, or another finding, took back.
        skipped: Rules that were not checked, by code, with the reason.
        layers: Gaps in the order of execution, where there were data.
        explanation: Why prediction differs from training, in words; empty if it does not.
        batches: Training batches looked at.
    """

    findings: tuple[Finding, ...]
    withdrawn: tuple[Finding, ...]
    skipped: Mapping[str, str]
    layers: tuple[LayerGap, ...]
    explanation: str
    batches: int

    @property
    def severity(self) -> str | None:
        """The gravest; None without findings."""
        return self.findings[0].severity if self.findings else None

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes found, each once, in order."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite becomes None."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "withdrawn": [finding.to_dict() for finding in self.withdrawn],
            "skipped": dict(self.skipped),
            "layers": [
                {
                    key: None if isinstance(value, float) and value - value != 0 else value
                    for key, value in dataclasses.asdict(layer).items()
                }
                for layer in self.layers
            ],
            "explanation": self.explanation,
            "batches": self.batches,
        }
