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

Mistaken for it: statistics that still lag behind, BN012; sound layers after ReLU with nearly dead channels.

Reports: TE-08, NF-07.
"""

from collections.abc import Iterator

from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.passes import Series
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 4
EXPLAINED_BY = ("BN001", "BN002", "BN007", "BN012", "BN026", "BN034")

EXPLODED, GROWN, OFF, HINT = 10.0, 2.0, 1.0, 1e4
HALF, MOST = 0.5, 0.75  # of the channels
CURE = consent(f"{RECALIBRATE}; clip inputs, or make the layers with nonfinite='skip'")


def check(patient: Patient) -> Iterator[Finding]:
    """Stored against fresh statistics, or within the layer."""
    if patient.has_data and patient.training.has_enough():
        for name in patient.gaps:
            yield from _compare(patient.by_name[name], patient.training.series[name])
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


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them."""
    return repair.recalibrate(finding.layer)


def _compare(layer: Layer, series: Series) -> Iterator[Finding]:
    assert layer.mean is not None
    assert layer.var is not None
    fresh = series.var.median(0).values
    varies = fresh > 1e-12
    if not varies.any():
        return
    ratio = plain(layer.var)[varies] / fresh[varies]
    off = ((plain(layer.mean) - series.mean.median(0).values) / fresh.sqrt())[varies]
    exploded = float((ratio >= EXPLODED).double().mean())
    aside = max(float((off > OFF).double().mean()), float((off < -OFF).double().mean()))
    if exploded >= HALF or (aside >= MOST and float(ratio.median()) >= GROWN):
        yield found(
            "error",
            layer.name,
            f"The running variance is {float(ratio.median()):.2g} times that of the training data and the "
            f"running mean {float(off.abs().median()):.2g} standard deviations off (medians over channels): "
            "a few wild values passed through and are not forgotten.",
            CURE,
            {"variance_ratio": float(ratio.median()), "mean_off": float(off.abs().median())},
        )
