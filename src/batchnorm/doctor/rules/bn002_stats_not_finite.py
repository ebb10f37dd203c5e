"""Running statistics, weight or bias hold NaN, infinity, or a negative variance, or no variance at all.

One batch with an infinite value is enough: an infinite value never leaves an exponential average. Training
does not notice, since it normalizes with the batch; prediction returns NaN. A running variance of 0 in every
channel was lost on the way, in a conversion or an allocation: prediction multiplies by 1 / √eps.

Found by: looking at every value; one channel of no variance is BN004. The layer that is named first, in the
order of execution where there are data, is where to look for the cause; later ones may only have been given
its output.

Severity: error; a variance of 0 warn, error if the inputs vary on data.

Fix: the statistics of the bad channels start anew and are measured on training data. Weights that are
not finite cannot be mended: go back to an earlier checkpoint. To prevent it, make the layers with
``nonfinite="skip"``.

Mistaken for it: NaN in the backward of a loss scaler's first steps, which are skipped and harmless; a
variance between -1e-12 and 0 from a conversion, which rounds to 0; no variance in a layer whose input is
constant, in data too, or in a layer of unknown class that begins with 0.

Reports: B1-06, NF-01, NF-02, NF-03, EP-07; trap NF-04.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from batchnorm.doctor.judge import confirmed, withdrawn
from batchnorm.doctor.layer import NO_VARIANCE, USUAL_EPS, Layer, plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.records import Finding, some_of

EVIDENCE = "C"
RANK = 1
FIXES = ("consent", "advice")
MEASURES = True

ROUNDING = -NO_VARIANCE  # a variance down to here is a 0 that was converted
SHOWN = 5  # channels
AMPLIFIED = 1.1  # times, from which a variance of 0 is none of the data's


def check(patient: Patient) -> Iterator[Finding]:
    """All four tensors of every layer."""
    for layer in patient.layers:
        bad = {key: mask.nonzero()[:, 0].tolist() for key, mask in _bad(layer).items() if mask.any()}
        if not bad:
            if layer.is_without_variance():
                yield _without_variance(layer)
            continue
        where = "; ".join(f"{key} in {_listed(channels)}" for key, channels in bad.items())
        learned = bad.keys() & {"weight", "bias"}
        yield found(
            "error",
            layer.name,
            f"Not finite, or negative as a variance: {where}. Prediction returns NaN there for every input.",
            advice("go back to a checkpoint whose weights are finite: these cannot be computed anew")
            if learned
            else consent(f"reset the bad channels; {RECALIBRATE}"),
            {key: float(len(channels)) for key, channels in bad.items()},
        )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """Whether the inputs vary after all."""
    assert finding.layer is not None
    layer, series = patient.by_name[finding.layer], patient.training.series.get(finding.layer)
    if series is None:
        return finding
    assert layer.eps is not None
    times = float((series.within / layer.eps + 1).sqrt().median())
    if times < AMPLIFIED:
        return withdrawn(finding, "on the data its input does not vary either")
    return confirmed(finding, {"times_too_large": times}, "error")


def mend(repair: Repair, finding: Finding) -> str:
    """Reset the bad channels, then measure."""
    layer = repair.layer(finding.layer)
    with torch.no_grad():
        for key, fresh in (("running_mean", 0.0), ("running_var", 1.0)):
            values = getattr(layer, key)
            bad = ~torch.isfinite(values) | ((values < 0) if key == "running_var" else False)
            values[bad | (key == "running_var" and bool((values.abs() <= NO_VARIANCE).all()))] = fresh
    return repair.recalibrate(finding.layer)


def _without_variance(layer: Layer) -> Finding:
    assert layer.var is not None
    eps = layer.eps or USUAL_EPS
    return found(
        "warn",
        layer.name,
        "The running variance is 0 in every channel: prediction multiplies distances from the running mean "
        f"by 1 / sqrt(eps), {eps**-0.5:.3g} for eps {eps:g}.",
        consent(f"reset the variance; {RECALIBRATE}"),
        {"running_var": float(layer.var.numel())},
        suspected=True,
    )


def _listed(channels: list[int]) -> str:
    return f"channel{'s' * (len(channels) > 1)} {some_of(map(str, channels), SHOWN)}"


def _bad(layer: Layer) -> dict[str, Tensor]:
    tensors = {
        "running_mean": layer.mean,
        "running_var": layer.var,
        "weight": layer.weight,
        "bias": layer.bias,
    }
    masks = {key: ~torch.isfinite(plain(value)) for key, value in tensors.items() if value is not None}
    if layer.var is not None:
        masks["running_var"] |= plain(layer.var) < ROUNDING
    return masks
