"""Accumulated gradients do not make batch norm's batch larger.

Statistics are those of each micro-batch. [0, 1] and [10, 11] apart become -1, +1 twice, together -1.09
to 1.09; and every micro-batch is an update of the running statistics.

Found by: ``accumulation`` above 1 with micro-batches of less than 16 values per channel.

Severity: info.

Fix: a larger micro-batch, momentum 1 - (1 - momentum)^(1/k), or group norm.

Mistaken for it: large maps, which give many values per channel.

Reports: MF-04.
"""

from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"

FEW = 16


def check(patient: Patient) -> Iterator[Finding]:
    """Values per channel in a micro-batch."""
    if patient.settings.accumulation == 1:
        return
    counts = [
        call.moments.count
        for batch in patient.training.batches[:1]
        for call in batch
        if call.training and call.moments is not None
    ]
    if counts and min(counts) < FEW:
        yield found(
            "info",
            None,
            f"{patient.settings.accumulation} micro-batches make a step, but statistics are those of each "
            f"one, with {min(counts)} values per channel in the smallest layer.",
            advice(
                "a larger micro-batch, or group norm; momentum 1 - (1 - m)^(1/k) for the running statistics"
            ),
            {"accumulation": float(patient.settings.accumulation), "values": float(min(counts))},
        )
