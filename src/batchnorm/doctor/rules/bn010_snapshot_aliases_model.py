"""The state dict that was kept as a snapshot is the live model itself.

``state_dict()`` returns references. The "best epoch" that is restored at the end is the last one.

Found by: tensors of ``snapshot`` that share their memory with the model.

Severity: error.

Fix: ``copy.deepcopy(model.state_dict())``, or write it to a file at once.

Mistaken for it: a state dict that goes straight into a file.

Reports: CK-06.
"""

from collections.abc import Iterator

from torch import Tensor

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "O"


def check(patient: Patient) -> Iterator[Finding]:
    """Memory of snapshot and model."""
    if patient.model is None or patient.settings.snapshot is None:
        return
    live = {_memory(value) for value in patient.model.state_dict().values() if value.numel()}
    shared = [
        key
        for key, value in patient.settings.snapshot.items()
        if isinstance(value, Tensor) and value.numel() and _memory(value) in live
    ]
    if shared:
        yield found(
            "error",
            None,
            f"{len(shared)} tensors of the snapshot, as {shared[0]}, are the model's own: every step changes "
            "them, and restoring it restores nothing.",
            advice("keep copy.deepcopy(model.state_dict())"),
            {"tensors": float(len(shared))},
        )


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
