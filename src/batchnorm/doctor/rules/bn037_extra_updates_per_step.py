"""Running statistics are updated more than once per training step.

Every forward in training mode is an update. Activation checkpointing runs the forward again during the
backward; attacks, two-step optimizers and auxiliary losses run more forwards. The average then follows
the last batches more closely than momentum says, or mixes in what it should not see.

Found by: counting each layer's calls in a training step, ``step_fn`` or one forward and backward. Calls
during a backward are recomputation, calls in further forwards of the model, or of a part of it that is called
by itself, are extra passes. Several calls within one forward are BN020.

Severity: warn.

Fix: layers of this package (`batchnorm.convert`), which skip recomputation; further passes in prediction
mode. Momentum 1 − (1 − momentum)^(1/k) makes k updates count as one; it is exact for recomputation.

Mistaken for it: layers of this package, which skip recomputation; those with statistics for each domain or
step; gradient accumulation, given as ``accumulation``; methods that want two batches a step.

Reports: SY-15, MF-01, MF-02, MF-03, MF-08, AP-06, AP-16.
"""

from collections.abc import Iterator

from batchnorm.doctor.gap import Gaps
from batchnorm.doctor.layer import is_ours
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.remainder import unmixed
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.records import Finding
from batchnorm.surgery import convert

EVIDENCE = "F"
RANK = 9
FIXES = ("consent", "advice")


def check(patient: Patient) -> Iterator[Finding]:
    """Calls by layer in one step."""
    if not patient.step:
        return
    step = [call for call in patient.step if call.training and _has_one_average(patient, call.layer)]
    for name in dict.fromkeys(call.layer for call in step):
        calls = [call for call in step if call.layer == name]
        # Ours skip what activation checkpointing repeats.
        again = 0 if is_ours(patient.by_name[name].module) else sum(call.backward for call in calls)
        passes = len({call.forward for call in calls if not call.backward})
        if not again and passes <= patient.settings.accumulation:
            continue
        updates = passes + again
        slower = f"momentum 1 - (1 - m)^(1/{updates})"
        why = (
            f"{again} of them during the backward: the forward is computed again (activation checkpointing)"
            if again
            else f"in {passes} forwards of the model or its parts"
        )
        yield found(
            "warn",
            name,
            f"{updates} updates of the running statistics in one step, {why}.",
            consent(f"batchnorm.convert(model): layers that skip recomputation; or {slower}")
            if passes <= patient.settings.accumulation
            else advice(f"further forwards in prediction mode; or {slower}"),
            {"updates": float(updates), "recomputed": float(again)},
        )


def _has_one_average(patient: Patient, name: str) -> bool:
    """Whether every forward updates the same running statistics."""
    layer = patient.by_name[name]
    return layer.tracks and layer.rows == 1


def left(patient: Patient) -> Gaps:
    """What is computed again moves the statistics nowhere else; further forwards may."""
    return unmixed(patient)


def mend(repair: Repair, finding: Finding) -> str:
    """A layer that skips recomputation."""
    layer = repair.layer(finding.layer)
    _, report = convert(layer)
    if not report.converted:
        raise ValueError(f"fix: layer expected of a class that convert knows, got {type(layer).__name__}")
    return "it is a layer of this package now, which skips recomputation"
