"""How data confirm or withdraw a suspicion."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from batchnorm.doctor.gap import HARMFUL, INFO_RATIO, Gap
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import rounded
from batchnorm.records import Finding

__all__ = ["ERROR_RATIO", "INFO_RATIO", "WARN_RATIO", "by_gap", "confirmed", "gravity", "withdrawn"]

WARN_RATIO, ERROR_RATIO = 4.0, 8.0  # as INFO_RATIO


def gravity(patient: Patient, gap: Gap) -> str | None:
    """Severity of a layer's gap: the ratio decides, unless all gaps together are too small to do harm."""
    if not gap.reaches(INFO_RATIO):
        return None
    if not gap.reaches(WARN_RATIO) or patient.excess < HARMFUL:
        return "info"
    return "error" if gap.reaches(ERROR_RATIO) else "warn"


def confirmed(finding: Finding, evidence: Mapping[str, float | str], severity: str | None = None) -> Finding:
    """The finding, with what confirmed it."""
    return dataclasses.replace(
        finding,
        severity=severity or finding.severity,
        evidence={**finding.evidence, **rounded(evidence)},
        state="confirmed",
    )


def withdrawn(
    finding: Finding, reason: str, evidence: Mapping[str, float | str] = MappingProxyType({})
) -> Finding:
    """The finding, taken back, with the reason."""
    return dataclasses.replace(
        confirmed(finding, evidence), message=f"{finding.message} Withdrawn: {reason}.", state="withdrawn"
    )


def by_gap(patient: Patient, finding: Finding, least: float = INFO_RATIO) -> Finding:
    """Confirm if the layer's statistics are off on the data, withdraw if they are not.

    Args:
        patient: With data.
        finding: Of one layer.
        least: Ratio of gap to expected gap from which it is confirmed.
    """
    gap = None if finding.layer is None else patient.gaps.get(finding.layer)
    if gap is None:
        if finding.layer is None or patient.reads(finding.layer):
            return finding
        return withdrawn(finding, "prediction does not read its statistics")
    if gap.reaches(least):
        return confirmed(finding, {"gap_ratio": gap.ratio})
    return withdrawn(
        finding,
        f"on the data its statistics are sound (gap {gap.ratio:.2g} times what sampling explains)",
        {"gap_ratio": gap.ratio},
    )
