"""Statistics do not fit into the half precision of the target.

A variance above 65504 becomes infinite and the output silently 0; one below 6e-8 becomes 0 and the
output infinite.

Found by, with ``target_dtype=torch.float16``: running variance, mean, and scale against the range of half.

Severity: error.

Fix: write scale and shift computed in float32 instead of the four tensors.

Mistaken for it: engines that keep batch norm in float32; bfloat16, which has float32's range.

Reports: EX-08.
"""

from collections.abc import Iterator

import torch

from batchnorm.doctor.layer import plain
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "C"

MOST, LEAST = 65504.0, 6e-8


def check(patient: Patient) -> Iterator[Finding]:
    """Every statistic against half's range."""
    if patient.settings.target_dtype is not torch.float16:
        return
    for layer in patient.layers:
        if layer.mean is None or layer.var is None:
            continue
        var, mean, gain = plain(layer.var), plain(layer.mean), layer.gain()
        reasons = {
            f"variance {float(var.max()):.3g} becomes infinite": bool((var > MOST).any()),
            f"variance {float(var.min()):.3g} becomes 0": bool(((var < LEAST) & (var > 0)).any()),
            f"mean {float(mean.abs().max()):.3g} becomes infinite": bool((mean.abs() > MOST).any()),
            "the scale becomes infinite": gain is not None and bool((gain > MOST).any()),
        }
        true = [reason for reason, holds in reasons.items() if holds]
        if true:
            yield found(
                "error",
                layer.name,
                f"In half precision its {', its '.join(true)}.",
                advice(
                    "export scale = weight / sqrt(var + eps) and shift = bias - mean * scale, made in float32"
                ),
                {"largest_var": float(var.max()), "smallest_var": float(var.min())},
            )
