"""Dropout before batch norm makes the variance in training larger than in prediction.

Training zeroes inputs and scales up the rest, so the running variance is that of noise which prediction
does not have: 4.01 in training, 0.010 in prediction, for dropout 0.5 before a layer.

Found by: the traced graph: dropout upstream with only linear, convolution, pooling or activation between.
With data: the layer's input varies less in prediction than 0.8 of what it does in training, and the running
variance is nearer to that of training.

Severity: info; warn when confirmed.

Fix: batch norm first, then dropout; or measure the statistics, which is done with dropout off.

Mistaken for it: a small rate, or wide layers after the dropout, as in wide residual networks; statistics
that were measured with dropout off.

Reports: TE-13, IN-09.
"""

import math
from collections.abc import Iterator

from batchnorm.doctor.judge import confirmed, withdrawn
from batchnorm.doctor.layer import plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
RANK = 9
FIXES = ("consent",)
MEASURES = True

LESS = 0.8


def check(patient: Patient) -> Iterator[Finding]:
    """What is upstream."""
    for name, rate in patient.dropout.items():
        if patient.by_name[name].mean is not None:
            yield found(
                "info",
                name,
                f"Dropout with rate {rate:g} comes before it: the running variance is that of training's "
                "noise.",
                consent(f"batch norm first, then dropout; or {RECALIBRATE}, dropout off"),
                {"rate": rate},
                suspected=True,
            )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """Variance in prediction over that in training, and to which of them the running variance belongs."""
    assert finding.layer is not None
    trained = patient.training.series.get(finding.layer)
    predicted, running = patient.prediction.series.get(finding.layer), patient.by_name[finding.layer].var
    if trained is None or predicted is None:
        return finding
    assert running is not None
    ratio = float((predicted.within / trained.within).nanmedian())
    off = float((plain(running) / predicted.within).log().abs().nanmedian())
    evidence: dict[str, float | str] = {"prediction_over_training_variance": ratio}
    if ratio >= LESS:
        return withdrawn(
            finding, f"in prediction the input varies {ratio:.2f} times as much as in training", evidence
        )
    if ratio and off < -math.log(ratio) / 2:  # half the way to that of training
        return withdrawn(finding, "its running variance is that of prediction", evidence)
    return confirmed(finding, evidence, "warn")


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them, dropout off."""
    return repair.recalibrate(finding.layer)
