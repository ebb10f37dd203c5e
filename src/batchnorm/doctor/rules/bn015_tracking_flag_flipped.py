"""``track_running_stats`` was switched off on a layer that has running statistics.

It does not freeze. In training the layer normalizes with the batch and leaves its statistics alone; in
prediction it uses statistics that no longer follow. A well-known fine-tuning recipe does this.

Found by: the flag is False but the buffers exist. No layer is built this way.

Severity: error.

Fix: switch it on again and put the layer into prediction mode, which is what freezes statistics.

Mistaken for it: a layer built with the flag off, which has no buffers: BN014.

Reports: TE-07, FR-03, FR-05.
"""

from collections.abc import Iterator

from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
RANK = 8
FIXES = ("consent",)


def check(patient: Patient) -> Iterator[Finding]:
    """Flag against buffers."""
    for layer in patient.layers:
        if layer.kind in ("batch", "sync") and not layer.tracks and layer.mean is not None:
            yield found(
                "error",
                layer.name,
                "track_running_stats was switched off but the statistics are there: training normalizes "
                "with the batch while prediction uses statistics that stand still.",
                consent("layer.track_running_stats = True, and layer.eval() after each train() to freeze it"),
            )


def mend(repair: Repair, finding: Finding) -> str:
    """Flag on, prediction mode."""
    layer = repair.layer(finding.layer)
    vars(layer)["track_running_stats"] = True
    layer.eval()
    return "tracks again and is in prediction mode; call eval() on it after each train()"
