"""Weight decay acts on weight and bias of batch norm.

In front of another normalization decay on γ changes nothing but the effective step; on a channel without
gradient it drives γ to 0, by exp(-lr · decay · steps).

Found by: the optimizer's groups; ``steps`` tells how much it comes to.

Severity: info; warn if decay alone would halve them.

Fix: a group with decay 0 for one-dimensional parameters.

Mistaken for it: many published recipes decay everything on purpose.

Reports: IN-01.
"""

import math
from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "O"

HALF = 0.5


def check(patient: Patient) -> Iterator[Finding]:
    """The groups that hold weight or bias."""
    optimizer = patient.settings.optimizer
    if optimizer is None:
        return
    ours = {
        id(p)
        for layer in patient.layers
        if layer.module is not None
        for p in layer.module.parameters(recurse=False)
    }
    for number, group in enumerate(optimizer.param_groups):
        decay = float(group.get("weight_decay", 0.0))
        count = sum(id(p) in ours for p in group["params"])
        if not decay or not count:
            continue
        evidence: dict[str, float | str] = {"weight_decay": decay, "parameters": float(count)}
        severity, words = "info", ""
        if patient.settings.steps is not None:
            shrink = math.exp(-float(group["lr"]) * decay * patient.settings.steps)
            evidence["shrink"] = shrink
            severity = "warn" if shrink < HALF else "info"
            words = f" Over {patient.settings.steps} steps it shrinks what has no gradient to {shrink:.0%}."
        yield found(
            severity,
            None,
            f"Optimizer group {number} decays {count} weights and biases of batch norm by {decay:g}.{words}",
            advice("put parameters of one dimension into a group with weight_decay=0"),
            evidence,
        )
