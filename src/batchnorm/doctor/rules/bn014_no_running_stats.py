"""The layer keeps no running statistics, so prediction normalizes with the batch.

A sample's output depends on its neighbours, and one sample alone raises an error or becomes its bias.

Found by: a layer made with ``track_running_stats=False``.

Severity: warn; error with ``goal="export"``, where there is nothing to export.

Fix: make it track and measure the statistics on training data.

Mistaken for it: instance norm; few-shot methods and generators that use the batch on purpose: ignore
BN014 there.

Reports: TE-07, TE-14, B1-07, EX-01, SY-02.
"""

import itertools
from collections.abc import Iterator

import torch

from batchnorm.doctor.layer import is_ours
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
FIXES = ("consent",)
MEASURES = True


def check(patient: Patient) -> Iterator[Finding]:
    """Who keeps none."""
    severity = "error" if patient.settings.goal == "export" else "warn"
    for layer in patient.layers:
        if layer.kind in ("batch", "sync") and layer.mean is None:
            yield found(
                severity,
                layer.name,
                "No running statistics (track_running_stats=False): prediction normalizes with whatever "
                "batch it is given, so a sample's score depends on its neighbours.",
                consent(f"make it with track_running_stats=True; {RECALIBRATE}"),
            )


def mend(repair: Repair, finding: Finding) -> str:
    """Buffers, then their values."""
    layer = repair.layer(finding.layer)
    features = int(vars(layer)["num_features"])
    like = next(itertools.chain(layer.parameters(), repair.model.parameters()), torch.empty(0))
    # Torch's layers want one dtype; ours keep their statistics in float32 at least.
    dtype = torch.promote_types(like.dtype, torch.float32) if is_ours(layer) else like.dtype
    layer.register_buffer("running_mean", torch.zeros(features, dtype=dtype, device=like.device))
    layer.register_buffer("running_var", torch.ones(features, dtype=dtype, device=like.device))
    layer.register_buffer("num_batches_tracked", torch.tensor(0, device=like.device))
    vars(layer)["track_running_stats"] = True
    return f"tracks statistics now; {repair.recalibrate(finding.layer)}"
