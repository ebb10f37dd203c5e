"""The weight (γ) starts from a random law, or a trained layer has weight 0 throughout.

Drawn from normal(0, 0.02), as some initializers do to every module, it shrinks the layer's output to 0.02
and flips half of the channels.

Found by: a counter of 0 and a bias that is the same in every channel, with a median size below 0.1, or with
both signs; a counter above 0 with weight exactly 0 in every channel.

Severity: warn.

Fix: weight 1 and bias 0; only before training.

Mistaken for it: weight 0 in the last batch norm of a residual branch at the start; what training made of it,
where the statistics were lost, which is BN001: the bias has moved; normal(1, 0.02) of generator recipes.

Reports: IN-03, IN-04; trap IN-05.
"""

from collections.abc import Iterator

from torch import nn

from batchnorm.doctor.layer import plain
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
FIXES = ("consent", "advice")

SMALL = 0.1


def check(patient: Patient) -> Iterator[Finding]:
    """Weights against the counter."""
    for layer in patient.layers:
        if layer.weight is None or layer.count is None or layer.kind not in ("batch", "sync", "checkpoint"):
            continue
        weight = plain(layer.weight)
        if layer.count and not weight.any():
            yield found(
                "warn",
                layer.name,
                f"After {layer.count} batches the weight is 0 in every channel: the layer returns its bias "
                "and lets no gradient through.",
                advice("see why it never trained: no gradient, no optimizer group, or a decay that won"),
                {"count": float(layer.count)},
            )
        # Training gives each channel a bias of its own; initializers give all the same.
        moved = layer.bias is not None and bool((layer.bias != layer.bias[:1]).any())
        fresh = layer.count == 0 and layer.has_initial_statistics() and bool(weight.any()) and not moved
        median, negative = float(weight.abs().median()), float((weight < 0).double().mean())
        if fresh and (median < SMALL or 0 < negative < 1):
            yield found(
                "warn",
                layer.name,
                f"Before training the weight has median size {median:.2g} and {negative:.0%} of it is "
                "negative: an initializer meant for other layers was applied.",
                consent("weight 1, bias 0"),
                {"median": median, "negative": negative},
            )


def mend(repair: Repair, finding: Finding) -> str:
    """Start from 1 and 0."""
    layer = repair.layer(finding.layer)
    nn.init.ones_(layer.get_parameter("weight"))
    if layer._parameters.get("bias") is not None:
        nn.init.zeros_(layer.get_parameter("bias"))
    return "weight 1, bias 0"
