"""A three-dimensional input has its features on the last axis, but batch norm takes the second.

``(N, L, C)`` from an LSTM, a linear layer or an embedding is normalized per time step. No error is raised
where L equals ``num_features``, nor where a layer has neither affine parameters nor running statistics: such
a layer takes any number of channels.

Found by: two of three signs. Both axes have one size; what comes before is a layer with features last; slices
along the last axis explain 5 times as much of the input's variance as along the second, and 10 times chance.
Or a layer was given another number of channels than it declares.

Severity: error if the two axes have one size, or the number of channels is wrong; warn otherwise.

Fix: ``layer(x.transpose(1, 2)).transpose(1, 2)``, with as many features as the last axis has.

Mistaken for it: mixers that act along the sequence on purpose; series that share their course in time, as
those of a day do, whose length is no number of features; what a convolution made; a single channel; a layer
with ``channel_dim=-1``.

Reports: CK-10, FO-11, MK-03, MK-04, MK-07, NU-09.
"""

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from batchnorm.doctor.graph import Graph
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"

TIMES, CHANCE = 5.0, 10.0
TURN = "layer(x.transpose(1, 2)).transpose(1, 2)"
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU)
THROUGH = (*ACTIVATIONS, nn.Dropout, nn.MaxPool1d, nn.AvgPool1d)
# The first takes the outputs of an LSTM from its tuple.
FUNCTIONS = (operator.getitem, torch.relu, nn.functional.relu, nn.functional.gelu, nn.functional.silu)
FEATURES_LAST = (nn.Linear, nn.RNNBase, nn.Embedding, nn.LayerNorm)


def check(patient: Patient) -> Iterator[Finding]:
    """The number of channels, then the shares of both axes in every three-dimensional input."""
    given = {call.layer: call.shape for batch in patient.training.batches for call in batch}
    for name, shape in given.items():
        declared = getattr(patient.by_name[name].module, "num_features", None)
        if isinstance(declared, int) and shape[1] != declared:
            yield found(
                "error",
                name,
                f"It is made for {declared} channels and was given {shape[1]} of {tuple(shape)}, without "
                "an error, since it holds nothing to compare with.",
                advice(f"num_features={shape[1]}, or another axis"),
                {"declared": float(declared), "given": float(shape[1])},
            )
    for name, input in _inputs(patient).items():
        maker = _maker(patient.graph, name)
        second, last = share(input, 1), share(input, 2)
        chance = (input.shape[2] - 1) / input.numel()
        same = input.shape[1] == input.shape[2]
        explained = last > TIMES * second and last > CHANCE * chance
        signs = same + explained + isinstance(maker, FEATURES_LAST)
        if signs >= 2 and not isinstance(maker, nn.modules.conv._ConvNd):
            yield found(
                "error" if same else "warn",
                name,
                f"Its input of shape {tuple(input.shape)} has features on the last axis: slices there "
                f"explain {last:.1%} of the variance, along the second, which is normalized, {second:.1%}.",
                advice(TURN if same else f"a layer of {input.shape[2]} features, called as {TURN}"),
                {"second_axis": second, "last_axis": last},
            )


def share(input: Tensor, axis: int) -> float:
    """Share of the variance that the means of slices along an axis explain."""
    values = input.double()
    means = values.mean([d for d in range(3) if d != axis])
    return float(means.var(correction=0) / values.var(correction=0).clamp_min(1e-300))


def _inputs(patient: Patient) -> dict[str, Tensor]:
    if not any(
        len(call.shape) == 3 for batch in patient.training.batches[:1] for call in batch if call.training
    ):
        return {}
    inputs: dict[str, Tensor] = {}

    def look(name: str, input: Tensor) -> None:
        last = getattr(patient.by_name[name].module, "channel_dim", 1) == -1
        if input.dim() == 3 and input.shape[1] > 1 and not last:
            inputs.setdefault(name, input.cpu().clone())

    patient.look(look)
    return inputs


def _maker(graph: Graph | None, name: str) -> nn.Module | None:
    """The module that made a layer's input, past what leaves its axes alone; None if that is not seen."""
    if graph is None:
        return None
    for node in (site.node for site in graph.sites if site.layer == name):
        for above in graph.upstream(node):
            module = graph.module(above)
            if above.target not in FUNCTIONS and not isinstance(module, THROUGH):
                return module
    return None
