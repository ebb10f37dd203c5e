"""momentum has the value of another framework's convention.

In PyTorch momentum is the weight of the *new* batch, 0.1. Keras, TensorFlow, Caffe, Flax and most papers
give the weight of the *old* ones, 0.9 to 0.999. Pasted over, the running statistics are those of the last
batch.

Found by: momentum of 0.5 or more; 0.9, 0.99, 0.997 and 0.999 are usual elsewhere. With data the suspicion
falls if the layer's gap is ordinary and a batch is worth more than 32 values: 64 images a step lost nothing
in our tests.

Severity: warn; info for momentum 1; error if data show a gap of 4 times the expected, or few values per
channel.

Fix: 1 - momentum, then measure the statistics.

Mistaken for it: momentum 1 set for a moment by a recalibration loop. Elsewhere it would mean that nothing is
ever taken in, so it was not copied from there; the fix is then torch's default, 0.1.

Reports: MO-01, MO-02, MO-05.
"""

from collections.abc import Iterator

from batchnorm.doctor.gap import Gaps
from batchnorm.doctor.judge import WARN_RATIO, confirmed, withdrawn
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.remainder import beyond_one_batch
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
RANK = 7
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = ("BN001", "BN002", "BN003")

HIGH = 0.5
USUAL = (0.9, 0.99, 0.997, 0.999)  # weights of the old ones, in other frameworks' defaults and papers
DEFAULT = 0.1
FEW = 32  # independent values per channel and batch


def check(patient: Patient) -> Iterator[Finding]:
    """Every momentum."""
    for layer in patient.layers:
        momentum = layer.momentum
        if momentum is None or not HIGH <= momentum <= 1 or layer.mean is None:
            continue
        right = _right(momentum)
        if momentum == 1:
            instead = f"torch's default is {right:g}"
        elif momentum in USUAL:
            instead = f"elsewhere it is a usual weight of the old ones, for which write {right:g}"
        else:
            instead = f"where it means the weight of the old ones, write {right:g}"
        yield found(
            "info" if momentum == 1 else "warn",
            layer.name,
            f"momentum {momentum:g} is the weight of the new batch here: the running statistics are "
            f"{'' if momentum == 1 else 'nearly '}those of the last one; {instead}.",
            consent(f"momentum {right:g}; {RECALIBRATE}"),
            {"momentum": momentum},
            suspected=True,
        )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """What one batch is worth, and the gap."""
    assert finding.layer is not None
    gap, series = patient.gaps.get(finding.layer), patient.training.series.get(finding.layer)
    if gap is None or series is None:
        return finding
    worth = float((series.within / series.mean.var(0)).nanmedian())
    evidence: dict[str, float | str] = {"gap_ratio": gap.ratio, "batch_worth": worth}
    if gap.reaches(WARN_RATIO) or worth <= FEW:
        return confirmed(finding, evidence, "error")
    return withdrawn(
        finding, f"a batch is worth {worth:.0f} values, which one batch's statistics need", evidence
    )


def left(patient: Patient) -> Gaps:
    """The statistics are those of one batch, but no others."""
    return beyond_one_batch(patient)


def mend(repair: Repair, finding: Finding) -> str:
    """The complement, then measure."""
    layer = repair.layer(finding.layer)
    before = vars(layer)["momentum"]
    vars(layer)["momentum"] = _right(before)
    return f"momentum {before:g} is now {vars(layer)['momentum']:g}; {repair.recalibrate(finding.layer)}"


def _right(momentum: float) -> float:
    return DEFAULT if momentum == 1 else round(1 - momentum, 6)
