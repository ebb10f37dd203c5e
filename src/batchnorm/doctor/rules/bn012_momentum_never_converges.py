"""So few batches, or so slow a momentum, that the initial statistics still weigh in.

After k updates the initial mean 0 and variance 1 keep a weight of (1 − momentum)^k. With momentum 0.001
that is 74 % after 300 steps: training is perfect and prediction is chance.

Found by: that weight above 0.05 by the layer's counter, or momentum 0. With data the layer's gap confirms
or withdraws it.

Severity: warn; error if the initial values weigh more than half.

Fix: measure the statistics on training data; for the next training a momentum with 3 / momentum well
below the number of steps.

Mistaken for it: pretrained statistics whose counter was reset; momentum 0 in a layer that only predicts.

Reports: TE-09, MO-02, MO-03, MO-04, EM-08, CK-02.
"""

from collections.abc import Iterator

from batchnorm.doctor.judge import by_gap
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 6
EXPLAINED_BY = ("BN001", "BN002", "BN033")

WARN_WEIGHT, ERROR_WEIGHT = 0.05, 0.5


def check(patient: Patient) -> Iterator[Finding]:
    """The weight of the initial values, by momentum and counter."""
    for layer in patient.layers:
        momentum, count = layer.momentum, layer.count
        if layer.mean is None or momentum is None or momentum != momentum:
            continue
        if momentum == 0:
            if layer.training and layer.normalizes_batches:
                yield found(
                    "error",
                    layer.name,
                    "Momentum 0 in training mode: the running statistics never move, yet training normalizes "
                    "with the batch. Momentum is the weight of the new batch.",
                    consent("momentum 0.1, and eval mode to freeze; " + RECALIBRATE),
                    {"momentum": momentum},
                    suspected=True,
                )
            continue
        weight = (1 - momentum) ** (count or 0)
        if count and weight > WARN_WEIGHT and layer.normalizes_batches:
            yield found(
                "error" if weight > ERROR_WEIGHT else "warn",
                layer.name,
                f"After {count} batches with momentum {momentum:g} the initial mean 0 and variance 1 still "
                f"have a weight of {weight:.0%} in the running statistics; about {3 / momentum:.0f} batches "
                "are needed.",
                consent(RECALIBRATE),
                {"momentum": momentum, "count": float(count), "initial_weight": weight},
                suspected=True,
            )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """On the data the statistics must be off."""
    return by_gap(patient, finding)


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)
