"""Why prediction differs from training, for a tired person."""

from collections.abc import Sequence

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.report import LayerGap
from batchnorm.records import Finding

__all__ = ["explain"]


def explain(patient: Patient, findings: Sequence[Finding], layers: Sequence[LayerGap]) -> str:
    """The explanation; empty if there is no gap to explain."""
    return ""
