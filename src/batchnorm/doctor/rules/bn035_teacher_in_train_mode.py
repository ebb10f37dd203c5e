"""A part that receives no gradient moves its running statistics.

A teacher, target or reference network under ``no_grad`` but in training mode changes with every batch it
scores, and its outputs depend on the batch.

Found by: in a training step, a layer in training mode that is called while gradients are off, beside others
that are called with gradients.

Severity: warn.

Fix: put that part into prediction mode.

Mistaken for it: mean teachers and momentum encoders that want it so; a distillation whose margins come from
the batch: ignore BN035 there.

Reports: EM-04, AP-08, AP-13; trap AP-12.
"""

from collections.abc import Iterator

from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.records import Finding

EVIDENCE = "F"
FIXES = ("consent", "advice")
EXPLAINED_BY = ("BN033",)


def check(patient: Patient) -> Iterator[Finding]:
    """Calls of a step, with and without gradients."""
    if not patient.step:
        return
    step = [call for call in patient.step if patient.by_name[call.layer].tracks]
    taught = {call.layer for call in step if call.grad or call.backward}
    teachers = [call.layer for call in step if not call.grad and call.training and call.layer not in taught]
    if not taught:
        return
    # A model in prediction mode is put into training mode as a whole, by this rule too.
    cure = consent if patient.model is not None and patient.model.training else advice
    for name in dict.fromkeys(teachers):
        yield found(
            "warn",
            name,
            "Called without gradients in training mode: nothing trains it, yet every batch moves its running "
            "statistics and its output depends on the batch.",
            cure("eval() for that part, after each train()"),
        )


def mend(repair: Repair, finding: Finding) -> str:
    """Into prediction mode."""
    repair.layer(finding.layer).eval()
    return "in prediction mode now; call eval() on it after each train()"
