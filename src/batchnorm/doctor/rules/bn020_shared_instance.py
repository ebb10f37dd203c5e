"""One batch norm is called at several places with different inputs.

In training each call is normalized with its own mean and variance; prediction normalizes all of them with
one running average that fits none: inputs at 0 and 10, each with variance 1, share mean 5 and variance 1,
where all values together have 26.

Found by: a layer called twice or more in a forward, the means of its inputs 0.5 standard deviations apart or
their variances a factor 2, medians over channels.

Severity: warn.

Fix: a layer of its own for each place; what is around it may stay shared.

Mistaken for it: twin branches whose inputs have one distribution; recomputation in the backward, BN037; a
layer with statistics for each domain or step.

Reports: MF-05, MF-07, MF-09.
"""

from collections.abc import Iterator

from batchnorm.doctor.distance import apart
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"


def check(patient: Patient) -> Iterator[Finding]:
    """Calls of one layer in one forward."""
    if not patient.training.batches:
        return
    first = patient.training.batches[0]
    for name in dict.fromkeys(call.layer for call in first if patient.by_name[call.layer].rows == 1):
        calls = [call for call in first if call.layer == name and call.training and call.moments is not None]
        far = apart([call.moments for call in calls if call.moments is not None])
        if far is not None:
            yield found(
                "warn",
                name,
                f"Called {len(calls)} times in a forward with inputs whose means are {far.means:.2g} "
                f"standard deviations apart and variances a factor {far.spreads:.2g}: one running average "
                "fits none.",
                advice("one batch norm for each place it is called at"),
                {"calls": float(len(calls)), "means_apart": far.means, "variance_factor": far.spreads},
            )
