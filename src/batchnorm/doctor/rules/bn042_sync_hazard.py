"""Synchronized batch norm in a place where it hangs, fails or loses something.

Found by: torch's SyncBatchNorm inside ``DataParallel``; on a CPU in training with several ranks; without
running statistics, so that an evaluation on one rank waits for the others. Before a conversion, with
``ranks`` above 1: a subclass of batch norm whose extra behaviour ``convert_sync_batchnorm`` drops.

Severity: error.

Fix: one process per device; this package's layer with ``stats=Synced()``, which works on CPUs and keeps
subclasses as they are.

Mistaken for it: one process without a group, which works; frozen layers.

Reports: B1-09, DT-04, SY-01, SY-02, SY-04, SY-06, SY-07, SY-08, SY-09, SY-11, SY-12, SY-14.
"""

from collections.abc import Iterator

from torch import nn

from batchnorm.doctor.layer import Layer, TorchBatchNorm
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "S"


def check(patient: Patient) -> Iterator[Finding]:
    """Every synchronized layer, and those that would become one."""
    assert patient.model is not None
    parallel = any(isinstance(module, nn.DataParallel) for module in patient.model.modules())
    for layer in patient.layers:
        why = _hazard(layer, parallel, patient.settings.ranks)
        if why:
            yield found(
                "error",
                layer.name,
                why,
                advice("one process per device, and batchnorm.convert(model, stats=Synced())"),
            )


def _hazard(layer: Layer, parallel: bool, ranks: int) -> str:
    module = layer.module
    if layer.kind == "foreign" and ranks > 1 and isinstance(module, TorchBatchNorm):
        name = type(module).__name__
        return f"convert_sync_batchnorm would replace {name} by a plain layer and drop what it adds."
    if layer.kind != "sync":
        return ""
    if parallel:
        return "SyncBatchNorm inside DataParallel: it needs one process per device."
    if layer.mean is None:
        return "SyncBatchNorm without running statistics: an evaluation on one rank waits for all others."
    on_cpu = layer.mean.device.type == "cpu"
    if isinstance(module, nn.SyncBatchNorm) and on_cpu and layer.training and ranks > 1:
        return "torch's SyncBatchNorm in training on a CPU with several ranks: it refuses CPU tensors."
    return ""
