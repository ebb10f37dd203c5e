"""Each device sees so few values that statistics of all devices together would be better.

Found by: ``ranks`` or ``replicas`` above 1, plain batch norm in training mode, and a batch worth less than 16
independent values per channel and device, as BN025 counts them.

Severity: info.

Fix: synchronized statistics, at the cost of one collective per layer and direction.

Mistaken for it: frozen batch norm; contrastive methods with a queue, where shared moments leak; a quarter
longer epochs without a gain were reported where devices had enough values.

Reports: FR-10, SY-13, DD-06, AP-05.
"""

from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"

FEW = 16.0


def check(patient: Patient) -> Iterator[Finding]:
    """What a device's share of the batch is worth, in the layer with least."""
    settings = patient.settings
    if settings.ranks * settings.replicas == 1 or settings.independence == "contrastive":
        return
    worth: dict[str, float] = {}
    trains = {call.layer for batch in patient.training.batches for call in batch if call.training}
    for name in patient.training.series:
        if patient.by_name[name].kind == "batch" and name in trains:
            worth[name] = patient.training.worth(name) / settings.replicas
    least = min(worth, key=lambda name: worth[name], default=None)
    if least is not None and worth[least] < FEW:
        yield found(
            "info",
            least,
            f"Each of {settings.ranks * settings.replicas} devices normalizes with {worth[least]:.2g} "
            "independent values per channel; all together have more.",
            advice("batchnorm.convert(model, stats=Synced()): one collective per layer and direction"),
            {"values": worth[least], "devices": float(settings.ranks * settings.replicas)},
        )
