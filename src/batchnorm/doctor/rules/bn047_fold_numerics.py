"""A fold that is right on paper loses digits, or is wrong for the input it gets.

Found by, with ``goal="fold"``: a gain above 100; a largest gain 100 times the median, which a quantization
per tensor cannot hold; weights in half or bfloat16, where the product is rounded twice; with data, a linear
layer followed by batch norm on three-dimensional input, which normalizes another axis than the linear
layer's.

Severity: error for the axis; warn for the others.

Fix: fold in float64 from float32 weights and cast last; leave the linear layer unfolded.

Mistaken for it: 4e-6 between folded and unfolded, which is rounding. Compare with float64, not with the
unfolded float32.

Reports: FO-06, FO-09, FO-11, FO-12; traps FO-07, TR-03.
"""

from collections.abc import Iterator

import torch
from torch import nn

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "S"

GAIN = 100.0
EXACT = advice("batchnorm.fold computes in float64 and casts last; compare outputs with float64")


def check(patient: Patient) -> Iterator[Finding]:
    """Gains, dtypes, and the rank of inputs."""
    if patient.settings.goal != "fold":
        return
    for layer in patient.layers:
        gain = layer.gain()
        if gain is None or not gain.numel():
            continue
        most, median = float(gain.max()), float(gain.median())
        weight = layer.weight
        if most > GAIN or most > GAIN * median:
            yield found(
                "warn",
                layer.name,
                f"Its gain reaches {most:.3g}, {most / max(median, 1e-300):.3g} times the median: folded, it "
                "amplifies rounding, and one scale per tensor cannot quantize it.",
                EXACT,
                {"gain": most, "over_median": most / max(median, 1e-300)},
            )
        elif weight is not None and weight.dtype in (torch.float16, torch.bfloat16):
            kind = str(weight.dtype).removeprefix("torch.")
            yield found(
                "warn",
                layer.name,
                f"Weights in {kind}: folded there, gain and weight are rounded before their product is "
                "known.",
                EXACT,
                {"dtype": kind},
            )
    yield from _axes(patient)


def _axes(patient: Patient) -> Iterator[Finding]:
    graph = patient.graph
    if graph is None or not patient.has_data or not patient.prediction.batches:
        return
    deep = {call.layer for call in patient.prediction.batches[0] if len(call.shape) == 3}
    for site in graph.sites:
        if site.layer in deep and isinstance(graph.module(graph.producer(site.node)), nn.Linear):
            yield found(
                "error",
                site.layer,
                "A linear layer followed by batch norm on (N, L, C): the first acts on the last axis, the "
                "second on axis 1, so folding is wrong, in silence where both have one size.",
                advice("leave it unfolded"),
            )
