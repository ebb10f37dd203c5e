"""So few values per channel that batch statistics are noise.

With two values and no spatial size the output is always -1 and +1, whatever they are. Below about 16 values
training is noisy, and prediction is another function.

Found by: values per channel; on maps, whose pixels are not independent, what a batch is worth: the variance
within batches over that of their means.

Severity: warn.

Fix: synchronized statistics, a larger micro-batch, frozen statistics of a pretrained network, or group norm;
and a recalibration at the end.

Mistaken for it: two images with large maps, which may be worth hundreds of values.

Reports: TE-06, B1-11, FR-10.
"""

from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"
EXPLAINED_BY = ("BN026",)

FEW = 16.0


def check(patient: Patient) -> Iterator[Finding]:
    """What a batch is worth in every layer."""
    examined = patient.training
    trains = {call.layer for batch in examined.batches for call in batch if call.training}
    for name, series in examined.series.items():
        if name not in trains or not patient.by_name[name].normalizes_batches:
            continue
        count, items = float(series.count.median()), float(series.items.median())
        worth = examined.worth(name)
        if worth < FEW:
            yield found(
                "warn",
                name,
                f"A batch is worth {worth:.2g} independent values per channel ({items:.0f} samples): its "
                "mean and variance are noise.",
                advice("Synced statistics, a larger micro-batch, Frozen statistics, or group norm"),
                {"worth": worth, "count": count, "samples": items},
            )
