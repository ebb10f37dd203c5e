"""The data it will be used on look different from the training data.

The first layers' inputs have another mean or spread than the running statistics, while training data do not.
A shift need not hurt: inputs times 3 still scored 1.00 in our test.

Found by, with ``target_loader``: in the first layer the mean is off by more than 0.5 standard deviations
or the variance by more than a factor 2, medians over channels; the training data show neither.

Severity: info.

Fix: first compare the preprocessing (0 to 255 against 0 to 1); then adapt the statistics to the target.

Mistaken for it: a target batch of one class; a tiny one, for which nothing is said below 32 samples.

Reports: AP-14, AP-15.
"""

from collections.abc import Iterator

from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.passes import Pass
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"
RANK = 12

MEAN, SPREAD = 0.5, 2.0
FEW = 32  # samples of the target
ABSURD = 1e3  # factor of variances that no domain explains


def check(patient: Patient) -> Iterator[Finding]:
    """The first layer on both sets."""
    if patient.settings.target_loader is None:
        return
    order = [name for name in patient.prediction.order if patient.by_name[name].mean is not None]
    if not order:
        return
    layer = patient.by_name[order[0]]
    target, home = _shift(layer, patient.target, FEW), _shift(layer, patient.prediction)
    if target is None or home is None or not _far(target) or _far(home):
        return
    mean, spread = target
    first = (
        "Compare the preprocessing first: such a factor is 0 to 255 against 0 to 1, or a missing "
        "standardization. "
        if spread > ABSURD
        else ""
    )
    yield found(
        "info",
        layer.name,
        f"On the target data its input is off by {mean:.2g} standard deviations, its variance by a factor "
        f"{spread:.2g}; on the training data by neither. {first}It matters only if the score falls.",
        advice("compare the preprocessing; then adapt: batchnorm.recalibrate(model, target_loader)"),
        {"mean_shift": mean, "variance_factor": spread},
    )


def _shift(layer: Layer, examined: Pass, least: int = 1) -> tuple[float, float] | None:
    series = examined.series.get(layer.name)
    if series is None or layer.mean is None or layer.var is None or layer.eps is None:
        return None
    if series.items.sum() < least:
        return None
    mean, var = series.pooled()
    stored = plain(layer.var) + layer.eps
    shift = (mean - plain(layer.mean)).abs() / stored.sqrt()
    factor = ((var + layer.eps) / stored).log().abs().exp()
    return float(shift.median()), float(factor.median())


def _far(shift: tuple[float, float]) -> bool:
    return shift[0] > MEAN or shift[1] > SPREAD
