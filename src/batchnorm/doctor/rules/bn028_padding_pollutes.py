"""Padded positions enter the statistics.

Two sequences [2, 4, 2, 4] and [3] padded with zeros have mean 1.875 where the valid values have 3.0; how
much a batch is padded then changes every output.

Found by, with ``lengths_fn``: the valid outputs in training mode change by more than 1e-4 when the batch is
padded to twice its length.

Severity: warn.

Fix: the masked layer, ``layer(x, mask=mask)``.

Mistaken for it: packed sequences; convolutions that reach into the padding, which the change in prediction
mode tells.

Reports: MK-01, MK-02, MK-06.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from batchnorm.doctor.batch import head_of, with_head
from batchnorm.doctor.guard import Loan
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.doctor.step import scores_in
from batchnorm.records import Finding

EVIDENCE = "F"

TOLERANCE = 1e-4


def check(patient: Patient) -> Iterator[Finding]:
    """The batch as it is against the batch padded further."""
    lengths_fn = patient.settings.lengths_fn
    if lengths_fn is None or not patient.layers:
        return
    batch = patient.first_batch
    lengths, head = lengths_fn(batch), head_of(batch)
    if not isinstance(head, Tensor) or head.dim() != 3 or bool((lengths == head.shape[-1]).all()):
        return
    padded = with_head(batch, F.pad(head, (0, head.shape[-1])))
    changed = _changed(patient, batch, padded, lengths, Loan.train)
    if changed <= TOLERANCE:
        return
    reach = _changed(patient, batch, padded, lengths, Loan.predict)
    also = " Part of it stays in prediction mode: a convolution before it reaches into the padding."
    yield found(
        "warn",
        None,
        f"Twice the padding changes valid outputs by up to {changed:.2g} of the largest: padded positions "
        f"enter the statistics.{also if reach > TOLERANCE else ''}",
        advice("mask them: layer(x, mask=mask) takes the moments of valid positions"),
        {"changed": changed, "changed_in_prediction": reach},
    )


def _changed(
    patient: Patient, batch: Any, padded: Any, lengths: Tensor, mode: Callable[[Loan], None]
) -> float:
    assert patient.model is not None
    outputs = []
    for given in (batch, padded):
        with patient.lent() as loan:
            mode(loan)
            torch.manual_seed(0)  # Dropout must not tell the two apart
            outputs.append(scores_in(patient.forward(patient.model, given)).double().clone())
    one, other = outputs
    if one.dim() == 3 and one.shape != other.shape:
        other = other[..., : one.shape[-1]]
        valid = torch.arange(one.shape[-1]) < lengths.cpu().unsqueeze(1)  # (N, L)
        one, other = (out.transpose(1, 2)[valid] for out in (one, other))
    if not one.numel() or one.shape != other.shape:
        return 0.0
    scale = float(one.abs().max()) or 1.0
    return float((one - other).abs().max()) / scale
