"""Running statistics still hold their initial values although the layer was trained.

Prediction then normalizes with mean 0 and variance 1, that is hardly at all, while training used the
batch. The scores of training are not those of prediction.

Found by: every channel has mean exactly 0 and variance exactly 1 and the counter is 0 or absent, while
weight or bias have moved. With data, the suspicion falls if mean 0 and variance 1 are right.

Severity: error; nothing for a model that was never trained.

Fix: measure the statistics on training data.

Mistaken for it: a fresh model; a branch that training never runs, such as an auxiliary head; a
converted file with counter 0 and statistics that moved, which is BN006.

Reports: TE-03, CK-04, CK-09, AP-08, IN-07, IN-08.
"""

from collections.abc import Iterator

from batchnorm.doctor.judge import by_gap
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 3
EXPLAINED_BY = ("BN002", "BN007", "BN017", "BN034")


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's statistics against its weights."""
    for layer in patient.layers:
        # A layer with fixed statistics holds (0, 1) where it is a plain affine map by design.
        if layer.kind == "frozen" or layer.count or not layer.has_initial_statistics():
            continue
        if layer.was_trained():
            yield found(
                "error",
                layer.name,
                "Running mean 0 and variance 1 in every channel, as when the layer was made, but its weight "
                "or bias have been trained: prediction does not normalize as training did.",
                consent(RECALIBRATE),
                {"count": "absent" if layer.count is None else 0},
                suspected=True,
            )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """On the data the statistics must be off."""
    return by_gap(patient, finding)


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)
