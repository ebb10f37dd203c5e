"""Samples see each other through batch norm where they must not.

In training mode each sample's output and gradient depend on all others: a gradient penalty is then not
per sample, private training has no bound on one sample's influence, and a contrastive task can be
solved by the batch's moments.

Found by, with ``independence``: layers in training mode; with data the share of a row's influence that
falls on other rows.

Severity: warn; error for private training.

Fix: group, instance or layer norm with two values per group at least.

Mistaken for it: a penalty taken in prediction mode; frozen batch norm.

Reports: AP-03, AP-04, AP-05, AP-10, TR-01, TR-04.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from batchnorm.doctor.batch import head_of, with_head
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.doctor.step import scores_in
from batchnorm.records import Finding

EVIDENCE = "S"

WORDS = {
    "private": "one sample's influence on the gradient cannot be bounded",
    "penalty": "the penalty is not on each sample's own gradient",
    "contrastive": "the batch's moments tell which samples belong together",
}


def check(patient: Patient) -> Iterator[Finding]:
    """Layers that couple, and how much."""
    why = patient.settings.independence
    if why is None:
        return
    coupling = [layer for layer in patient.layers if layer.training and layer.normalizes_batches]
    if not coupling:
        return
    share = _share(patient) if patient.has_data else None
    yield found(
        "error" if why == "private" else "warn",
        coupling[0].name,
        f"{len(coupling)} layers normalize with the batch, so samples see each other: {WORDS[why]}."
        + ("" if share is None else f" {share:.0%} of what a sample's output depends on is other samples."),
        advice("group, instance or layer norm, with two values per group at least"),
        {"layers": float(len(coupling)), **({} if share is None else {"others": share})},
    )


def _share(patient: Patient) -> float | None:
    """Share of the first rows' gradient that falls on the inputs of others."""
    assert patient.model is not None
    batch = patient.first_batch
    head = head_of(batch)
    if not isinstance(head, Tensor) or not head.is_floating_point() or len(head) < 2:
        return None
    with patient.lent() as loan, torch.enable_grad():
        loan.as_found()
        inputs = head.detach().clone().requires_grad_()
        output = scores_in(patient.forward(patient.model, with_head(batch, inputs)))
        if not output.requires_grad or len(output) != len(head):
            return None
        (gradient,) = torch.autograd.grad(output[0].abs().sum(), inputs)
    influence = gradient.double().abs().flatten(1).sum(1)
    return float(1 - influence[0] / influence.sum().clamp_min(1e-300))
