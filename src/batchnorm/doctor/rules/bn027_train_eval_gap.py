"""Prediction normalizes a layer's input otherwise than training did, by more than any cause found explains.

Found by: the gap between the output with running statistics and that with the batch's own, over what
sampling alone explains. In a healthy layer the ratio is 1, whatever the batch size; see docs/doctor.md.

Severity: info from a ratio of 2, if the gap is above 0.1 standard deviations; warn from 4 and error from 8,
if the gaps of all layers together, beyond what sampling explains, reach 0.35.

Fix: measure the statistics on training data.

Mistaken for it: a large learning rate, whose weights ran ahead of the statistics by a few steps, which
gives ratios of 10 and costs nothing; data that are not the training data; a part that training kept frozen,
if neither gradients nor ``frozen`` tell and the model is handed over in prediction mode; another batch size
than in training, which raises the ratio to 1.5; a handful of values per channel.

Reports: TE-01, TE-02, TE-08, FR-07, EM-11; trap VA-02.
"""

from collections.abc import Callable, Iterator

from batchnorm.doctor.gap import HARMFUL, Gaps
from batchnorm.doctor.judge import covers, gravity
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "T"
RANK = 13
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = (
    *("BN001", "BN002", "BN003", "BN005", "BN007", "BN008", "BN009", "BN011", "BN012", "BN013", "BN015"),
    *("BN026", "BN033", "BN034", "BN037", "BN038"),
)


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's ratio."""
    for name, gap in patient.gaps.items():
        severity = gravity(patient, gap)
        if severity is not None:
            bar = f", below the bar of {HARMFUL}: a recalibrated copy tells what accuracy that costs"
            harm = "" if patient.excess >= HARMFUL else bar
            yield found(
                severity,
                name,
                f"Prediction differs from training by {gap.size:.2g} standard deviations, {gap.ratio:.2g} "
                "times what sampling explains: the running statistics are not those of this data and these "
                f"weights. All layers together are {patient.excess:.2g} standard deviations off{harm}.",
                consent(RECALIBRATE),
                {
                    "gap_ratio": gap.ratio,
                    "gap": gap.size,
                    "worst_channel": gap.worst,
                    "excess": patient.excess,
                },
            )


def explained(patient: Patient, finding: Finding, cause: Finding, left: Callable[[], Gaps]) -> bool:
    """By what would leave little of the gap."""
    assert finding.layer is not None
    whole, rest = patient.gaps[finding.layer], left().get(finding.layer)
    return rest is None or covers(cause, whole.ratio, rest.ratio, gravity(patient, rest))


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)
