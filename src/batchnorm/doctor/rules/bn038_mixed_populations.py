"""Forwards of one step feed a layer inputs of different kinds.

Real and generated, labelled and unlabelled, clean and adversarial images: in training each forward is
normalized by itself, the running statistics mix them, and prediction fits none.

Found by: in a training step (``step_fn``), forwards of the model whose inputs to a layer are 0.5 standard
deviations apart or differ by a factor 2 in variance.

Severity: info; warn if the layer's gap is above 2 as well.

Fix: one set of statistics per kind, or one forward of all kinds together.

Mistaken for it: two halves of one shuffled batch; a layer with statistics for each domain or step. Order and
mix are part of published methods: nothing is changed silently.

Reports: MF-05, MF-06, AP-01, AP-06, AP-07, AP-15.
"""

from collections.abc import Iterator

from batchnorm.doctor.distance import apart
from batchnorm.doctor.gap import INFO_RATIO, Gaps
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.remainder import unmixed
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"
RANK = 9


def check(patient: Patient) -> Iterator[Finding]:
    """The first call of every forward in a step."""
    for name in dict.fromkeys(call.layer for call in patient.step if patient.by_name[call.layer].rows == 1):
        firsts = {
            call.forward: call.moments
            for call in reversed(patient.step)
            if call.layer == name and call.training and not call.backward and call.moments is not None
        }
        far = apart(list(firsts.values()))
        if far is None:
            continue
        gap = patient.gaps.get(name) if patient.training.has_enough() else None
        yield found(
            "warn" if gap is not None and gap.reaches(INFO_RATIO) else "info",
            name,
            f"{len(firsts)} forwards of a step give it inputs whose means are {far.means:.2g} standard "
            f"deviations apart and variances a factor {far.spreads:.2g}: its running statistics mix them.",
            advice("statistics of their own for each kind, or one forward of all kinds together"),
            {"means_apart": far.means, "variance_factor": far.spreads},
        )


def left(patient: Patient) -> Gaps:
    """With statistics of one kind alone."""
    return unmixed(patient)
