"""A layer's input is so far from zero that its variance loses its digits.

With a mean of a thousand standard deviations and more, E[x²] - E[x]² in float32 is noise or negative; a
constant channel at 7.3e9 leaves torch's layer as 94733; beyond 1e18 squares overflow.

Found by: mean over standard deviation above 1e3; a constant channel above 1e3; values above 1e18.

Severity: info; warn if ``target_dtype`` is a half type.

Fix: standardize the inputs; layers of this package subtract a shift first.

Mistaken for it: a channel that is constantly 0, which is fine. Torch on a CPU, contiguous, is sound to 1e4.

Reports: NF-06, NU-01, NU-02, NU-03.
"""

from collections.abc import Iterator

import torch

from batchnorm.doctor.moments import Moments
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"

RATIO, LEVEL, HUGE = 1e3, 1e3, 1e18


def check(patient: Patient) -> Iterator[Finding]:
    """The first batch's inputs."""
    half = patient.settings.target_dtype in (torch.float16, torch.bfloat16)
    seen: set[str] = set()
    for call in patient.training.batches[0] if patient.training.batches else ():
        if call.moments is None or call.layer in seen:
            continue
        seen.add(call.layer)
        why = _why(call.moments)
        if why:
            yield found(
                "warn" if half else "info",
                call.layer,
                f"{why}: a sum of squares in float32 loses the variance's digits.",
                advice("standardize the inputs, or use this package's layer, which subtracts a shift first"),
                {"largest": call.moments.most},
            )


def _why(seen: Moments) -> str:
    if seen.most > HUGE:
        return f"Its input reaches {seen.most:.2g}"
    level, std = seen.mean.abs(), seen.var.sqrt()
    ratio = (
        float((level / std.clamp_min(1e-300))[level > LEVEL].max()) if bool((level > LEVEL).any()) else 0.0
    )
    if ratio > 1e7:
        return f"A channel is constant at {float(level.max()):.2g}"
    worst = float((level / std)[std > 0].max()) if bool((std > 0).any()) else 0.0
    return f"A channel's mean is {worst:.2g} standard deviations from 0" if worst > RATIO else ""
