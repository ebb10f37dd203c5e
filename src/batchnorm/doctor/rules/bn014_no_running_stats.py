"""The layer keeps no running statistics, so prediction normalizes with the batch.

A sample's output depends on its neighbours, and one sample alone raises an error or becomes its bias.

Found by: a layer made with ``track_running_stats=False``.

Severity: warn; error with ``goal="export"``, where there is nothing to export.

Fix: make it track and measure the statistics on training data.

Mistaken for it: instance norm; few-shot methods and generators that use the batch on purpose: ignore
BN014 there.

Reports: TE-07, TE-14, B1-07, EX-01, SY-02.
"""

from collections.abc import Iterator

import torch

from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"


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
    like = next(iter(layer.parameters()), torch.empty(0))
    layer.register_buffer("running_mean", torch.zeros(features, device=like.device))
    layer.register_buffer("running_var", torch.ones(features, device=like.device))
    layer.register_buffer("num_batches_tracked", torch.tensor(0, device=like.device))
    vars(layer)["track_running_stats"] = True
    return f"tracks statistics now; {repair.recalibrate(finding.layer)}"
