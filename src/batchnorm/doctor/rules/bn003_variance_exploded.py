"""A few wild values, long gone, still dominate the running variance or mean.

The running variance takes in the square of an outlier: a batch scaled by 1e4 takes 150 clean batches to
forget at momentum 0.1. Prediction then shrinks everything towards 0.

Found by: in half of the channels or more the running variance is ten times that of the batches; or the
running mean is off by more than one standard deviation to the same side in three quarters, and the variance
is twice too large (a mean alone that is off has other causes). The checkpoint alone tells little, since a
scaled batch blows up all channels alike: the largest variance over the median of its layer above 1e4 is a
hint.

Severity: error with data; info without.

Fix: measure the statistics on training data; clip inputs, or make the layers with ``nonfinite="skip"``.

Mistaken for it: statistics that still lag behind, BN012; forwards of another kind in each step, BN037 and
BN038; sound layers after ReLU with nearly dead channels.

Reports: TE-08, NF-07.
"""

from collections.abc import Iterator

from batchnorm.doctor.gap import blown_up
from batchnorm.doctor.layer import plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.remainder import unmixed_layer
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 4
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = ("BN001", "BN002", "BN007", "BN012", "BN026", "BN034", "BN037", "BN038")

HINT = 1e4
CURE = consent(f"{RECALIBRATE}; clip inputs, or make the layers with nonfinite='skip'")


def check(patient: Patient) -> Iterator[Finding]:
    """Stored against fresh statistics, or within the layer."""
    if patient.has_enough:
        for name in patient.gaps:
            far = blown_up(patient.by_name[name], patient.training.series[name])
            if far:
                yield found(
                    "error",
                    name,
                    f"The running variance is {far['variance_ratio']:.2g} times that of the training data "
                    f"and the running mean {far['mean_off']:.2g} standard deviations off (medians over "
                    "channels): a few wild values passed through and are not forgotten.",
                    CURE,
                    far,
                )
        return
    for layer in patient.layers:
        if layer.var is None or not layer.var.numel():
            continue
        var = plain(layer.var)
        ratio = float(var.max() / var.median().clamp_min(1e-12))
        if ratio > HINT and float(var.max()) > 1:
            yield found(
                "info",
                layer.name,
                f"The largest running variance is {ratio:.2g} times the median of its layer: an outlier may "
                "have passed through. Only data can tell.",
                CURE,
                {"largest_over_median": ratio},
            )


def explained(patient: Patient, finding: Finding, cause: Finding, _: object) -> bool:
    """By initial values or by other forwards of a step, if without them the variance is right on data.

    With momentum 0 nothing passed through.
    """
    assert finding.layer is not None
    layer = patient.by_name[finding.layer]
    if layer.momentum == 0 or cause.code not in ("BN012", "BN037", "BN038"):
        return True
    if not patient.has_enough:
        return False
    right = layer.without_initial() if cause.code == "BN012" else unmixed_layer(patient, finding.layer)
    return not blown_up(right, patient.training.series[finding.layer])


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)
