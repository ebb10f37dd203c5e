"""Running statistics still hold their initial values although the layer was trained.

Prediction then normalizes with mean 0 and variance 1, that is hardly at all, while training used the
batch. The scores of training are not those of prediction.

Found by: every channel has mean exactly 0 and variance exactly 1 and the counter is 0 or absent, while
weight or bias have moved; of a layer without them, that the optimizer has made steps. With data, the
suspicion falls if mean 0 and variance 1 are right, or if prediction does not read them.

Severity: error; nothing for a model that was never trained.

Fix: measure the statistics on training data. Where weights are copied or averaged from another network, as
for a teacher or a target network, copy the buffers with them.

Mistaken for it: a fresh model, also with a weight of 0; a branch that never runs, such as an auxiliary head;
a converted file with counter 0 and statistics that moved, which is BN006.

Reports: TE-03, CK-04, CK-09, AP-08, IN-07, IN-08.
"""

from collections.abc import Iterator

from batchnorm.doctor.frozen import without_grad
from batchnorm.doctor.judge import by_gap
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 3
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = ("BN002", "BN007", "BN017", "BN034")

COPIED = "; if its weights are copied or averaged from another network, copy the buffers with them"


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's statistics against its weights."""
    for layer in patient.layers:
        # A layer with fixed statistics holds (0, 1) where it is a plain affine map by design.
        if layer.kind == "frozen" or layer.count or not layer.has_initial_statistics():
            continue
        stepped = layer.weight is None and _has_stepped(patient)
        if stepped or layer.was_trained():
            what = "the optimizer has made steps" if stepped else "its weight or bias have been trained"
            yield found(
                "error",
                layer.name,
                f"Running mean 0 and variance 1 in every channel, as when the layer was made, but {what}: "
                "prediction does not normalize as training did.",
                consent(f"{RECALIBRATE}{COPIED if without_grad(layer) else ''}"),
                {"count": "absent" if layer.count is None else 0},
                suspected=True,
            )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """On the data the statistics must be off."""
    return by_gap(patient, finding)


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)


def _has_stepped(patient: Patient) -> bool:
    """Whether the optimizer keeps a state, which it has from its first step on."""
    optimizer = patient.settings.optimizer
    return optimizer is not None and any(optimizer.state.values())
