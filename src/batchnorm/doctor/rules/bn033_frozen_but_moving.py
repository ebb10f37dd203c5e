"""A layer meant to be frozen still normalizes with the batch and moves its statistics.

``requires_grad=False`` freezes weight and bias only. ``eval()`` freezes the statistics until the next
``model.train()``. The predictions of the "frozen" part drift with the new data.

Found by: weight and bias need no gradient, or the layer is in a module named in ``frozen``, while the
layer is in training mode with running statistics.

Severity: warn; error if that holds for every layer, the whole backbone.

Fix: convert it to a layer with fixed statistics, which survives ``train()``, or put it into prediction mode
after every ``train()``.

Mistaken for it: libraries that train batch norm in a frozen body on purpose, where weight and bias need
gradients; adaptation of statistics alone; a momentum encoder or mean teacher, whose weights follow another
network's: fixed statistics would soon be those of other weights.

Reports: MO-03, FR-01, FR-02, FR-04, FR-07, FR-08, CK-09, SY-10; trap FR-09.
"""

from collections.abc import Iterator

from batchnorm.doctor.frozen import named, without_grad
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.nn.statistics import Frozen
from batchnorm.records import Finding
from batchnorm.surgery import convert

EVIDENCE = "S"
RANK = 8
FIXES = ("consent",)


def check(patient: Patient) -> Iterator[Finding]:
    """Who is called frozen, and its mode."""
    frozen = patient.settings.frozen
    tracked = [layer for layer in patient.layers if layer.normalizes_batches and layer.tracks]
    moving = [layer for layer in tracked if layer.training and (named(layer, frozen) or without_grad(layer))]
    whole = len(moving) > 1 and len(moving) == len(tracked)
    for layer in moving:
        why = "is named as frozen" if named(layer, frozen) else "has a frozen weight and bias"
        yield found(
            "error" if whole else "warn",
            layer.name,
            f"The layer {why} but is in training mode: it normalizes with the batch and every forward moves "
            "its running statistics.",
            consent(
                "batchnorm.convert(layer, stats=Frozen()), which survives train(), or layer.eval() after "
                "every model.train(), as requires_grad=False freezes no statistics; leave a mean teacher or "
                "momentum encoder as it is, since its weights move"
            ),
            {"momentum": "none" if layer.momentum is None else layer.momentum},
        )


def mend(repair: Repair, finding: Finding) -> str:
    """Fixed statistics, which train() does not thaw; for a class of its own, prediction mode."""
    layer = repair.layer(finding.layer)
    _, report = convert(layer, stats=Frozen())
    if report.converted:
        return "its statistics are fixed now, whatever train() says"
    layer.eval()
    return "in prediction mode now; call eval() on it again after each train()"
