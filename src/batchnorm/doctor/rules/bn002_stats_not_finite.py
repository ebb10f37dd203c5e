"""Running statistics, weight or bias hold NaN, infinity, or a negative variance.

One batch with an infinite value is enough: an infinite value never leaves an exponential average. Training
does not notice, since it normalizes with the batch; prediction returns NaN.

Found by: looking at every value. The layer that is named first, in the order of execution where there are
data, is where to look for the cause; later ones may only have been given its output.

Severity: error.

Fix: the statistics of the bad channels start anew and are measured on training data. Weights that are
not finite cannot be mended: go back to an earlier checkpoint. To prevent it, make the layers with
``nonfinite="skip"``.

Mistaken for it: NaN in the backward of a loss scaler's first steps, which are skipped and harmless; a
variance between -1e-12 and 0 from a conversion, which rounds to 0.

Reports: B1-06, NF-01, NF-02, NF-03, EP-07; trap NF-04.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 1

ROUNDING = -1e-12  # a variance down to here is a 0 that was converted
SHOWN = 5  # channels


def check(patient: Patient) -> Iterator[Finding]:
    """All four tensors of every layer."""
    for layer in patient.layers:
        bad = {key: mask.nonzero()[:, 0].tolist() for key, mask in _bad(layer).items() if mask.any()}
        if not bad:
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


def mend(repair: Repair, finding: Finding) -> str:
    """Reset the bad channels, then measure."""
    layer = repair.layer(finding.layer)
    with torch.no_grad():
        for key, fresh in (("running_mean", 0.0), ("running_var", 1.0)):
            values = getattr(layer, key)
            bad = ~torch.isfinite(values) | ((values < 0) if key == "running_var" else False)
            values[bad] = fresh
    return repair.recalibrate(finding.layer)


def _listed(channels: list[int]) -> str:
    more = f" and {len(channels) - SHOWN} more" if len(channels) > SHOWN else ""
    return f"channel{'s' * (len(channels) > 1)} {', '.join(map(str, channels[:SHOWN]))}{more}"


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
