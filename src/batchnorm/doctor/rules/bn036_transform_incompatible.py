"""Batch norm runs inside a transformation that cannot update its statistics.

``vmap`` over inputs cannot update one buffer with all of them. With torch's layers ``grad`` and ``jacrev``
cannot change a buffer that the function did not get as an argument, and ``momentum=None`` reads the counter
as a number, which a full-graph compile refuses; this package's layers do both. Statistics made in
``inference_mode`` cannot be updated by a training.

Found by: buffers that are inference tensors; layers in training mode with ``transform="vmap"``, torch's with
``"grad"``, and torch's with momentum None with ``"fullgraph"``.

Severity: error.

Fix: clone inference tensors; prediction mode inside vmap; buffers as an argument (`functional_call`) inside
grad; a number as momentum; or this package's layers (`batchnorm.convert`).

Mistaken for it: vmap over prediction mode, or over stacked models with statistics of their own
(`torch.func.stack_module_state`), which are fine: leave ``transform`` out there.

Reports: TR-01, TR-02, TR-05.
"""

from collections.abc import Iterator

from torch import nn

from batchnorm.doctor.layer import Layer, is_ours
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found, safe
from batchnorm.records import Finding

EVIDENCE = "S"
FIXES = ("safe", "advice")


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
        elif updates and (fault := _fault(patient.settings.transform, layer)):
            message, cure = fault
            yield found("error", layer.name, message, advice(cure))


def _fault(transform: str | None, layer: Layer) -> tuple[str, str] | None:
    """What is wrong with training a layer inside a transform, and the way out; None if it works."""
    if transform == "vmap":
        return (
            "In training mode inside vmap: one running mean cannot be updated with every input's.",
            "eval() inside vmap, or a norm without running statistics; stacked models map their buffers too",
        )
    ours = is_ours(layer.module)
    if transform == "grad" and not ours:
        return (
            "In training mode inside grad or jacrev: running statistics that the function does not get as an "
            "argument cannot be updated there.",
            "give functional_call the buffers too, eval() inside the transform, or batchnorm.convert(model)",
        )
    if transform == "fullgraph" and layer.momentum is None and not ours:
        return (
            "momentum None reads its counter as a Python number, which a full-graph compile refuses.",
            "momentum=0.1, batchnorm.convert(model), or compile without fullgraph",
        )
    return None


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
