"""Batches are not random samples: what is in one batch is alike.

Sorted data, one class or one recording a batch: the batch's mean is then a label. Training erases it,
prediction brings it back, and the running variance misses the spread between batches.

Found by: R, the variance of batch means over what independent samples would give, the median over
channels of the layer where it is largest. Shuffled data gave 0.8 to 1.2 whatever the batch size, sorted
data 65 and more. The ratio of between to within variance, the obvious test, misses sorted data in a first
layer (0.03). In a training that is watched the weights move from batch to batch and the layers' inputs with
them, so that the model's own input is judged.

Severity: warn above 3, error above 10; in a training that is watched only the latter.

Fix: shuffle; then measure the statistics.

Mistaken for it: samplers that group on purpose, as in metric learning.

Reports: TE-01, SH-01.
"""

import math
from collections.abc import Iterator

from batchnorm.doctor.gap import independence_of
from batchnorm.doctor.passes import Pass
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "T"
RANK = 10

WARN_R, ERROR_R = 3.0, 10.0
INPUT = "the model's input"


def check(patient: Patient) -> Iterator[Finding]:
    """The layer with the largest R.

    In training mode a layer after another sees what that one already normalized, so the first one
    tells most.
    """
    examined = patient.training
    measured = _watched(examined) if examined.moving else _measured(examined)
    known = {name: value for name, value in measured.items() if not math.isnan(value)}
    worst = max(known, key=lambda name: known[name], default=None)
    if worst is None or known[worst] <= (ERROR_R if examined.moving else WARN_R):
        return
    ratio = known[worst]
    yield found(
        "error" if ratio > ERROR_R else "warn",
        None,
        f"The means of batches differ {ratio:.0f} times as much as those of shuffled samples would "
        f"(variance, at {worst or 'the layer'}): what is in one batch is alike. Training erases that, "
        "prediction does not.",
        consent("shuffle the training data (DataLoader(shuffle=True)), then recalibrate"),
        {"independence": ratio, "at": worst},
    )


def _measured(examined: Pass) -> dict[str, float]:
    return {name: independence_of(series) for name, series in examined.series.items()}


def _watched(examined: Pass) -> dict[str, float]:
    # An image may have one channel, and eight batches of one channel reach 3 by chance in one look of 300.
    return {} if examined.input_series is None else {INPUT: independence_of(examined.input_series)}
