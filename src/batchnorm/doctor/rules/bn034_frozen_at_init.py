"""A layer is frozen with the statistics it was made with.

Mean 0 and variance 1 of a layer that never saw data normalize nothing; outputs grow with depth. The usual
cause is a ``norm_eval`` option in a training from scratch.

Found by: a layer in prediction mode while the model trains, its statistics (0, 1) and its counter 0.

Severity: error.

Fix: load pretrained statistics, or let it train.

Mistaken for it: architectures with a fixed affine layer by design, whose classes are frozen ones; a copy or
an average of trained weights whose buffers were left behind, which is BN001: its weights moved without
gradients.

Reports: FR-06.
"""

from collections.abc import Iterator

from batchnorm.doctor.frozen import without_grad
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
RANK = 4
FIXES = ("consent",)


def check(patient: Patient) -> Iterator[Finding]:
    """Modes and statistics."""
    assert patient.model is not None
    if not patient.model.training:
        return
    for layer in patient.layers:
        frozen = layer.kind in ("batch", "sync") and not layer.training
        # Weights that moved without gradients were trained elsewhere; their statistics did not come along.
        elsewhere = layer.was_trained() and without_grad(layer)
        if frozen and not elsewhere and layer.has_initial_statistics() and not layer.count:
            yield found(
                "error",
                layer.name,
                "Frozen in prediction mode with mean 0, variance 1 and no batch counted: it normalizes "
                "nothing.",
                consent("load pretrained statistics before freezing, or leave the layer in training mode"),
            )


def mend(repair: Repair, finding: Finding) -> str:
    """Into training mode."""
    repair.layer(finding.layer).train()
    return "in training mode now"
