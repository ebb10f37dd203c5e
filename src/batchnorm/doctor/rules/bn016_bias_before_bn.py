"""A bias right before batch norm does nothing.

The layer subtracts the mean, bias included. The bias costs memory and time, its gradient is rounding noise.

Found by: the traced graph: a convolution or linear layer with bias whose only user is a batch norm in
training mode. The bias must lie on the axis that is normalized: behind a linear layer it does where the input
is ``(N, C)``, which data show, or where ``channel_dim=-1``.

Severity: info.

Fix: make that layer with ``bias=False``; in a trained network lower ``running_mean`` by the bias, which is
exact.

Mistaken for it: a bias before frozen batch norm, which may be the only shift that trains; a convolution
with another user; a pool or padding in between; the bias of a linear layer in ``(N, L, C)``, where ``L`` is
normalized.

Reports: IN-02.
"""

from collections.abc import Iterator

import torch
from torch import nn

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
FIXES = ("consent",)


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's producer."""
    graph = patient.graph
    if graph is None:
        return
    for site in graph.sites:
        layer, producer = patient.by_name[site.layer], graph.producer(site.node)
        module = graph.module(producer)
        if producer is None or not layer.training or not layer.normalizes_batches:
            continue
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or module.bias is None:
            continue
        subtracted = _subtracted(patient, layer, module)
        alone = len(producer.users) == 1 and graph.calls(producer) == 1 and graph.calls(site.node) == 1
        if alone and subtracted is not False:
            yield found(
                "info",
                site.layer,
                "The bias of the layer right before it has no effect"
                f"{'' if subtracted else ', if its input is (N, C)'}: batch norm subtracts it with the mean.",
                consent("make that layer with bias=False; lower running_mean by the bias of a trained one"),
                {"bias_of_layer": graph.name(producer)},
                suspected=subtracted is None,
            )


def _subtracted(patient: Patient, layer: Layer, module: nn.Module) -> bool | None:
    """Whether the bias lies on the axis that is normalized; None if nobody saw the input."""
    last = getattr(layer.module, "channel_dim", 1) == -1
    if not isinstance(module, nn.Linear):
        return not last
    batches = patient.training.batches if patient.has_data else ()
    shapes = [call.shape for batch in batches for call in batch if call.layer == layer.name]
    return last or (all(len(shape) == 2 for shape in shapes) if shapes else None)


def mend(repair: Repair, finding: Finding) -> str:
    """Without the bias, and the mean that holds it lowered by it.

    Raises:
        ValueError: If it is not sure that the mean holds the bias.
    """
    if finding.state == "suspected":
        raise ValueError(
            f"fix: data expected to show that the input of layer {finding.layer} is (N, C), got none: else "
            "the bias has an effect"
        )
    name = str(finding.evidence["bias_of_layer"])
    module = repair.model.get_submodule(name)
    bias = module.bias
    mean = repair.layer(finding.layer)._buffers.get("running_mean")
    assert isinstance(bias, torch.Tensor)
    if mean is not None and mean.shape[-1:] != bias.shape:
        raise ValueError(
            f"fix: bias of layer {name} expected as many values as running_mean, got {len(bias)}"
        )
    # Statistics that no batch has moved do not hold the bias; lowered, they would look like measured ones.
    layer = repair.known(finding.layer)
    held = mean is None or bool(layer.count) or not layer.has_initial_statistics()
    if mean is not None and held:
        mean -= bias.detach()
    module.register_parameter("bias", None)
    same = "; predictions are the same" if held else ""
    return f"layer {name} has no bias now: build it with bias=False{same}"
