"""Running statistics are updated more than once per training step.

Every forward in training mode is an update. Activation checkpointing runs the forward again during the
backward; attacks, two-step optimizers and auxiliary losses run more forwards. The average then follows
the last batches more closely than momentum says, or mixes in what it should not see.

Found by: counting each layer's calls in a training step, ``step_fn`` or one forward and backward. Calls
during a backward are recomputation, calls in further forwards of the model are extra passes. Several
calls within one forward are BN020.

Severity: warn.

Fix: momentum 1 − (1 − momentum)^(1/k) for k updates is exact for recomputation; keep further passes
in prediction mode.

Mistaken for it: layers of this package, which skip recomputation; those with statistics for each domain or
step; gradient accumulation, given as ``accumulation``; methods that want two batches a step.

Reports: SY-15, MF-01, MF-02, MF-03, MF-08, AP-06, AP-16.
"""

from collections.abc import Iterator

from batchnorm.doctor.layer import is_ours
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "F"
RANK = 9


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
        why = (
            f"{again} of them during the backward: the forward is computed again (activation checkpointing)"
            if again
            else f"in {passes} forwards of the model"
        )
        yield found(
            "warn",
            name,
            f"{updates} updates of the running statistics in one step, {why}.",
            consent(
                f"momentum 1 - (1 - m)^(1/{updates}), or keep the further forwards from updating "
                "(eval mode, or a layer that skips recomputation)"
            ),
            {"updates": float(updates), "recomputed": float(again)},
        )


def _has_one_average(patient: Patient, name: str) -> bool:
    """Whether every forward updates the same running statistics."""
    layer = patient.by_name[name]
    return layer.tracks and layer.rows == 1


def mend(repair: Repair, finding: Finding) -> str:
    """The momentum that k updates need to have the effect of one."""
    layer, updates = repair.layer(finding.layer), finding.evidence["updates"]
    before = vars(layer)["momentum"]
    if before is None:
        return "nothing to do: a cumulative mean counts every update alike"
    vars(layer)["momentum"] = 1 - (1 - before) ** (1 / float(updates))
    return f"momentum {before:g} is now {vars(layer)['momentum']:.4g}"
