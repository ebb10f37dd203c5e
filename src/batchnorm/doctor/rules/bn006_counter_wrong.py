"""``num_batches_tracked`` is missing, not an integer, or does not fit the statistics.

With a number as momentum nothing reads it. With ``momentum=None`` it is the weight of all batches before:
if it restarts at 0 the next batch replaces the whole average, 5.00 becomes 0.41.

Found by: its presence and dtype; 0 although the statistics moved; 1 in an averaged model (``averaged_from``).

Severity: info when momentum is a number; error when it is None.

Fix: an integer counter; where it was lost, measure the statistics, which sets it.

Mistaken for it: files converted from other frameworks, which have no counter and always start at 0; exported
programs, which need none.

Reports: EM-03, CK-01, CK-02, CK-03, NU-08.
"""

from collections.abc import Iterator

import torch

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found, safe
from batchnorm.records import Finding

EVIDENCE = "C"
FIXES = ("safe", "consent")
MEASURES = True
EXPLAINED_BY = ("BN002", "BN034")


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's counter."""
    if patient.exported:
        return
    averaged = patient.settings.averaged_from is not None
    for layer in patient.layers:
        if layer.kind in ("frozen", "foreign") or layer.mean is None or not layer.tracks:
            continue
        why = _wrong(layer, averaged)
        if not why:
            continue
        reads = layer.momentum is None
        fractional = layer.counter is not None and layer.counter.is_floating_point()
        yield found(
            "error" if reads else "info",
            layer.name,
            f"num_batches_tracked {why}"
            + (
                ": with momentum None the next batch replaces the average instead of joining it."
                if reads
                else "; momentum is a number, so nothing reads it."
            ),
            safe("layer.num_batches_tracked = layer.num_batches_tracked.long()")
            if fractional
            else consent(RECALIBRATE),
            {"count": "absent" if layer.count is None else float(layer.count)},
        )


def mend(repair: Repair, finding: Finding) -> str:
    """An integer, or measured statistics with their counter."""
    counter = repair.layer(finding.layer)._buffers.get("num_batches_tracked")
    if counter is not None and counter.is_floating_point():
        repair.layer(finding.layer)._buffers["num_batches_tracked"] = counter.round().to(torch.int64)
        return "the counter is an integer now"
    return repair.recalibrate(finding.layer)


def _wrong(layer: Layer, averaged: bool) -> str:
    if layer.counter is None:
        return "is missing"
    if layer.counter.is_floating_point():
        return f"is {layer.counter.dtype}, not an integer"
    if layer.count == 0 and not layer.has_initial_statistics():
        return "is 0 although the statistics moved"
    return (
        "is 1 in an averaged model, which was left out of the average"
        if averaged and layer.count == 1
        else ""
    )
