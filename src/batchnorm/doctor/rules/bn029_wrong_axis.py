"""A three-dimensional input has its features on the last axis, but batch norm takes the second.

``(N, L, C)`` from an LSTM, a linear layer or an embedding is normalized per time step. No error is raised
where L equals ``num_features``, nor where a layer has neither affine parameters nor running statistics: such
a layer takes any number of channels.

Found by: how much of the input's variance slices along each of the two axes explain. The last one explains 5
times as much as the second and 10 times chance; or both have one size and what comes before is a layer with
features last. Or a layer was given another number of channels than it declares.

Severity: error if the two axes have one size, or the number of channels is wrong; warn otherwise.

Fix: ``layer(x.transpose(1, 2)).transpose(1, 2)``.

Mistaken for it: mixers that act along the sequence on purpose.

Reports: CK-10, FO-11, MK-03, MK-04, MK-07, NU-09.
"""

import operator
from collections.abc import Iterator

from torch import Tensor, nn

from batchnorm.doctor.graph import Graph
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.records import Finding

EVIDENCE = "F"

TIMES, CHANCE = 5.0, 10.0
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Dropout)
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
        second, last = share(input, 1), share(input, 2)
        chance = (input.shape[2] - 1) / input.numel()
        same = input.shape[1] == input.shape[2]
        explained = last > TIMES * second and last > CHANCE * chance
        if explained or (same and _features_last(patient.graph, name)):
            yield found(
                "error" if same else "warn",
                name,
                f"Its input of shape {tuple(input.shape)} has features on the last axis: slices there "
                f"explain {last:.1%} of the variance, along the second, which is normalized, {second:.1%}.",
                consent("layer(x.transpose(1, 2)).transpose(1, 2)"),
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
        if input.dim() == 3:
            inputs.setdefault(name, input.cpu().clone())

    patient.look(look)
    return inputs


def _features_last(graph: Graph | None, name: str) -> bool:
    for site in graph.sites if graph is not None else ():
        if graph is None or site.layer != name:
            continue
        for above in graph.upstream(site.node):
            module = graph.module(above)
            if isinstance(module, FEATURES_LAST):
                return True
            # Past an activation, and past taking the outputs of an LSTM from its tuple; a transpose ends it.
            if above.target is not operator.getitem and not isinstance(module, ACTIVATIONS):
                break
    return False
