"""How data confirm or withdraw a suspicion."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from batchnorm.doctor.gap import HARMFUL, INFO_RATIO, Gap, blown_up
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import rounded
from batchnorm.records import SEVERITIES, Finding

__all__ = [
    "ERROR_RATIO",
    "WARN_RATIO",
    "by_gap",
    "confirmed",
    "covers",
    "gravity",
    "is_of_start",
    "withdrawn",
]

WARN_RATIO, ERROR_RATIO = 4.0, 8.0  # as INFO_RATIO


def gravity(patient: Patient, gap: Gap) -> str | None:
    """Severity of a layer's gap: the ratio decides, unless all gaps together are too small to do harm."""
    if not gap.reaches(INFO_RATIO):
        return None
    if not gap.reaches(WARN_RATIO) or patient.excess < HARMFUL:
        return "info"
    return "error" if gap.reaches(ERROR_RATIO) else "warn"


def covers(cause: Finding, whole: float, left: float, severity: str | None) -> bool:
    """Whether a cause says enough of a gap: most of its square, and what it leaves is no graver than itself.

    Args:
        cause: Another rule's finding.
        whole: Ratio of the gap.
        left: The same without the cause.
        severity: How grave that is; None for nothing.
    """
    if severity is None:
        return True
    return 2 * left**2 <= whole**2 and SEVERITIES.index(cause.severity) <= SEVERITIES.index(severity)


def is_of_start(patient: Patient, layer: str) -> bool:
    """Whether a layer's statistics are off, and mostly since its initial ones still weigh in."""
    gap, grown = patient.gaps.get(layer), patient.grown_gaps.get(layer)
    if gap is None or grown is None:
        return False
    if gap.reaches(INFO_RATIO):
        return grown.ratio <= gap.ratio / 2 or not grown.reaches(INFO_RATIO)
    known, series = patient.by_name[layer], patient.training.series[layer]
    return bool(blown_up(known, series)) and not blown_up(known.without_initial(), series)


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
    assert finding.layer is not None
    far = blown_up(patient.by_name[finding.layer], patient.training.series[finding.layer])
    if gap.reaches(least) or far:
        more = {} if gap.reaches(least) else far
        return confirmed(finding, {"gap_ratio": gap.ratio, **more})
    return withdrawn(
        finding,
        f"on the data its statistics are sound (gap {gap.ratio:.2g} times what sampling explains)",
        {"gap_ratio": gap.ratio},
    )
