"""So few batches, or so slow a momentum, that the initial statistics still weigh in.

After k updates the initial mean 0 and variance 1 keep a weight of (1 − momentum)^k. With momentum 0.001
that is 74 % after 300 steps: training is perfect and prediction is chance.

Found by: that weight above 0.05 by the layer's counter, or momentum 0. A running variance cannot be below the
weight of the initial 1, so one channel that is proves that the statistics of the layers with this counter
come from elsewhere: nothing is said then. With data the layer's gap confirms or withdraws it.

Severity: warn; error if the initial values weigh more than half; info if all layers together would lose less
than 0.35 standard deviations, as the statistics would be without the initial values.

Fix: measure the statistics on training data; for the next training a momentum with 3 / momentum well
below the number of steps.

Mistaken for it: statistics that were measured on a few batches (`batchnorm.recalibrate`), which set the
counter to as many; pretrained statistics whose counter was reset; momentum 0 in a layer that only predicts.

Reports: TE-09, MO-02, MO-03, MO-04, EM-08, CK-02.
"""

import math
from collections.abc import Iterator

from batchnorm.doctor.gap import HARMFUL
from batchnorm.doctor.judge import by_gap
from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 6
EXPLAINED_BY = ("BN001", "BN002", "BN033")

WARN_WEIGHT, ERROR_WEIGHT = 0.05, 0.5
ROUNDING = 0.99  # of many small updates


def check(patient: Patient) -> Iterator[Finding]:
    """The weight of the initial values, by momentum and counter."""
    layers = [layer for layer in patient.layers if layer.mean is not None and layer.normalizes_batches]
    measured = {_key(layer) for layer in layers if _is_measured(layer)}
    for layer in layers:
        if layer.momentum == 0 and layer.training:
            yield found(
                "warn" if _key(layer) in measured else "error",
                layer.name,
                "Momentum 0 in training mode: the running statistics never move, yet training normalizes "
                "with the batch. Momentum is the weight of the new batch.",
                consent("momentum 0.1, and eval mode to freeze; " + RECALIBRATE),
                {"momentum": layer.momentum},
                suspected=True,
            )
    late = [layer for layer in layers if WARN_WEIGHT < _weight(layer) < 1 and _key(layer) not in measured]
    harmful = math.hypot(*map(_loss, late)) >= HARMFUL
    for layer in late:
        count, momentum, weight = layer.count, layer.momentum, _weight(layer)
        assert count is not None
        assert momentum is not None
        yield found(
            "info" if not harmful else "error" if weight > ERROR_WEIGHT else "warn",
            layer.name,
            f"After {count} batches with momentum {momentum:g} the initial mean 0 and variance 1 still "
            f"have a weight of {weight:.0%} in the running statistics; about {3 / momentum:.0f} batches "
            "are needed.",
            consent(RECALIBRATE),
            {
                "momentum": momentum,
                "count": float(count),
                "initial_weight": weight,
                "expected_gap": _loss(layer),
            },
            suspected=True,
        )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """On the data the statistics must be off."""
    return by_gap(patient, finding)


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)


def _key(layer: Layer) -> tuple[float | None, int | None]:
    """What layers that were trained or measured together have in common."""
    return layer.momentum, layer.count


def _weight(layer: Layer) -> float:
    """Of the initial values, if the statistics are an exponential average; 1 before the first batch."""
    return 0.0 if layer.momentum is None else (1 - layer.momentum) ** (layer.count or 0)


def _is_measured(layer: Layer) -> bool:
    """Whether a channel varies less than the initial variance alone would leave it."""
    return layer.var is not None and bool((plain(layer.var) < ROUNDING * _weight(layer)).any())


def _loss(layer: Layer) -> float:
    """Gap to the statistics without the initial values, in standard deviations, the median over channels."""
    assert layer.mean is not None
    assert layer.var is not None
    weight, mean, var = _weight(layer), plain(layer.mean), plain(layer.var)
    right = ((var - weight) / (1 - weight)).clamp_min(0)
    aside, narrower = mean * weight / (1 - weight) / var.sqrt(), (right / var).sqrt() - 1
    return float((aside.square() + narrower.square()).sqrt().nanmedian())
