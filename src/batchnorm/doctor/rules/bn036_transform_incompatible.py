"""Batch norm runs inside a transformation that cannot update its statistics.

``vmap``, ``grad`` and ``jacrev`` cannot change a buffer in place; statistics made in ``inference_mode``
cannot be updated by a training; ``momentum=None`` reads the counter as a number, which a full-graph
compile refuses.

Found by: buffers that are inference tensors; layers in training mode with ``transform="vmap"``; momentum None
with ``transform="fullgraph"``.

Severity: error.

Fix: clone inference tensors; prediction mode inside vmap; a number as momentum.

Mistaken for it: vmap over prediction mode, which is fine.

Reports: TR-01, TR-02, TR-05.
"""

from collections.abc import Iterator

from torch import nn

from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found, safe
from batchnorm.records import Finding

EVIDENCE = "S"


def check(patient: Patient) -> Iterator[Finding]:
    """Buffers, then modes."""
    for layer in patient.layers:
        tensors = [t for t in (layer.mean, layer.var, layer.weight) if t is not None]
        updates = layer.training and layer.tracks and layer.mean is not None
        if any(tensor.is_inference() for tensor in tensors):
            yield found(
                "error",
                layer.name,
                "Made in inference_mode: its statistics cannot be updated in training.",
                safe("clone its tensors outside inference_mode"),
            )
        elif patient.settings.transform == "vmap" and updates:
            yield found(
                "error",
                layer.name,
                "In training mode inside vmap, grad or jacrev: running statistics cannot be updated in place "
                "there.",
                advice("eval() inside the transform, or a norm without running statistics"),
            )
        elif patient.settings.transform == "fullgraph" and updates and layer.momentum is None:
            yield found(
                "error",
                layer.name,
                "momentum None reads its counter as a Python number, which a full-graph compile refuses.",
                advice("momentum=0.1, or compile without fullgraph"),
            )


def mend(repair: Repair, finding: Finding) -> str:
    """Ordinary tensors."""
    layer = repair.layer(finding.layer)
    for key, buffer in layer._buffers.items():
        if buffer is not None and buffer.is_inference():
            layer._buffers[key] = buffer.clone()
    for key, parameter in layer._parameters.items():
        if parameter is not None and parameter.is_inference():
            layer._parameters[key] = nn.Parameter(parameter.clone(), parameter.requires_grad)
    return "its tensors are ordinary ones now"
