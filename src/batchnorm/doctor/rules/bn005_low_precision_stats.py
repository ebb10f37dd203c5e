"""Running statistics are kept in half or bfloat16, where small updates round to nothing.

An update smaller than half a unit in the last of 8 bits is lost: with momentum 0.01 a bfloat16 running
variance sticks at 1.0078 where the truth is 1.438. Nothing says so.

Found by: the dtype of the running statistics of a layer that tracks them.

Severity: error if training continues; warn for a checkpoint; info for a model that only predicts.

Fix: cast the layer to float32, which is exact; the digits that were lost come back only by measuring the
statistics. Layers of this package keep their statistics in float32 whatever cast is asked.

Mistaken for it: half inputs into a float32 layer, which is right.

Reports: EP-06, FR-11, DT-01, DT-02, DT-03, DT-04, DT-05.
"""

from collections.abc import Iterator

import torch

from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import found, safe
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 7

HALF = (torch.float16, torch.bfloat16)


def check(patient: Patient) -> Iterator[Finding]:
    """Dtypes of the statistics."""
    severity = "error" if patient.trains else "warn" if patient.model is None else "info"
    for layer in patient.layers:
        if layer.mean is None or not layer.tracks or layer.mean.dtype not in HALF:
            continue
        kind = str(layer.mean.dtype).removeprefix("torch.")
        yield found(
            severity,
            layer.name,
            f"Running statistics in {kind}: updates below half a unit in the last digit are lost, so they "
            "stop moving before they are right.",
            safe("layer.float() keeps the layer in float32; then recalibrate for the digits that were lost"),
            {"dtype": kind},
        )


def mend(repair: Repair, finding: Finding) -> str:
    """Cast the layer."""
    repair.layer(finding.layer).float()
    return "in float32 now"
