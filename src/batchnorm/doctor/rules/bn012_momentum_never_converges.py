"""So few batches, or so slow a momentum, that the initial statistics still weigh in.

After k updates the initial mean 0 and variance 1 keep a weight of (1 − momentum)^k. With momentum 0.001
that is 74 % after 300 steps: training is perfect and prediction is chance. A small weight is much where the
data's variance is small: 5 % of 1 is 25 times a variance of 0.002.

Found by: that weight above 0.05 by the layer's counter, or less if without it a layer's output would be 0.35
standard deviations elsewhere; or momentum 0. A running variance cannot be below the weight of the initial 1,
so one channel that is proves that the statistics of the layers with this counter come from elsewhere: nothing
is said then. With data the layer's gap confirms or withdraws it, and finds layers that are off mostly since
the initial values weigh in.

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

from batchnorm.doctor.gap import HARMFUL, Gaps
from batchnorm.doctor.judge import by_gap, is_of_start, withdrawn
from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 6
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = ("BN001", "BN002", "BN033")

WARN_WEIGHT, ERROR_WEIGHT = 0.05, 0.5
DEFAULT = 0.1  # torch's momentum
ROUNDING = 0.99  # of many small updates
NOTHING = 1e-3  # of a running variance: what is left without the initial one is rounding


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
                consent(f"momentum {DEFAULT:g}, and eval mode to freeze; {RECALIBRATE}"),
                {"momentum": layer.momentum},
                suspected=True,
            )
    late = [layer for layer in layers if _key(layer) not in measured and _is_late(patient, layer)]
    harmful = math.hypot(*map(_loss, late)) >= HARMFUL
    for layer in late:
        count, momentum, weight = layer.count, layer.momentum, layer.initial_weight
        assert count is not None
        assert momentum is not None
        yield found(
            "info" if not harmful else "error" if weight > ERROR_WEIGHT else "warn",
            layer.name,
            f"After {count} batches with momentum {momentum:g} the initial mean 0 and variance 1 still "
            f"have a weight of {100 * weight:.2g}% in the running statistics; about {3 / momentum:.0f} "
            "batches are needed, more where variances are small.",
            consent(RECALIBRATE),
            {
                "momentum": momentum,
                "count": float(count),
                "initial_weight": weight,
                "initial_share_of_variance": _share(layer),
                "expected_gap": _loss(layer),
            },
            suspected=True,
        )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """On the data the statistics must be off, and not by more than a small weight can do."""
    assert finding.layer is not None
    layer, settled = patient.by_name[finding.layer], by_gap(patient, finding)
    small = layer.initial_weight <= WARN_WEIGHT and settled.state == "confirmed"
    if small and not is_of_start(patient, finding.layer):
        return withdrawn(finding, "on the data most of the gap is not that of the initial values")
    return settled


def left(patient: Patient) -> Gaps:
    """Without the initial values; with momentum 0 there is nothing else."""
    return {name: gap for name, gap in patient.grown_gaps.items() if patient.by_name[name].momentum != 0}


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them, and let them move from now on."""
    done, held = repair.recalibrate(finding.layer), vars(repair.layer(finding.layer))
    if held["momentum"] == 0:
        held["momentum"] = DEFAULT
        return f"momentum 0 is now {DEFAULT:g}; {done}"
    return done


def _key(layer: Layer) -> tuple[float | None, int | None]:
    """What layers that were trained or measured together have in common."""
    return layer.momentum, layer.count


def _is_measured(layer: Layer) -> bool:
    """Whether a channel varies less than the initial variance alone would leave it."""
    return layer.var is not None and bool((plain(layer.var) < ROUNDING * layer.initial_weight).any())


def _is_late(patient: Patient, layer: Layer) -> bool:
    """Whether the initial values weigh in, or may."""
    if not 0 < layer.initial_weight < 1 or layer.var is None or not layer.var.numel():
        return False
    if layer.initial_weight > WARN_WEIGHT or _loss(layer, NOTHING) >= HARMFUL:
        return True
    return patient.has_enough and is_of_start(patient, layer.name)


def _loss(layer: Layer, nothing: float = 0.0) -> float:
    """Gap to the statistics without the initial values, in standard deviations, the median over channels.

    Channels of which no more than nothing is left count for nothing: their inputs may be constant.
    """
    right = layer.without_initial()
    assert layer.mean is not None
    assert layer.var is not None
    assert right.mean is not None
    assert right.var is not None
    mean, var = plain(layer.mean), plain(layer.var)
    aside, narrower = (right.mean - mean) / var.sqrt(), (right.var / var).sqrt() - 1
    loss = (aside.square() + narrower.square()).sqrt()
    return float(loss[right.var >= nothing * var].nanmedian())


def _share(layer: Layer) -> float:
    """Of the initial variance in the running one, the median over channels."""
    assert layer.var is not None
    return min(1.0, float((layer.initial_weight / plain(layer.var)).nanmedian()))
