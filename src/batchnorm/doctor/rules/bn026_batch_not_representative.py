"""Batches are not random samples: what is in one batch is alike.

Sorted data, one class or one recording a batch: the batch's mean is then a label. Training erases it,
prediction brings it back, and the running variance misses the spread between batches.

Found by: R, the variance of batch means over what independent samples would give, the median over
channels of the first layer that runs. Shuffled data gave 0.8 to 1.2 whatever the batch size, sorted
data 65 and more. The ratio of between to within variance, the obvious test, misses sorted data in a first
layer (0.03). Where a sample has several rows, as a clip has frames, they count as one: a batch has as many
samples as the loader puts in, the model is given or returns, whichever are fewest. In a training that is
watched the weights move from batch to batch and the layers' inputs with them, so that the model's own input
is judged.

Severity: warn above 3, or above what chance makes of few and small batches (4.9 for 20 batches of 2);
error above 10.

Fix: shuffle; then measure the statistics.

Mistaken for it: samplers that group on purpose, as in metric learning; rows that are no whole number a
sample, as the nodes of graphs, which are not judged.

Reports: TE-01, SH-01.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

from batchnorm.doctor.gap import Gaps, independence_by_chance, independence_of
from batchnorm.doctor.passes import Pass, Series
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.remainder import beyond_one_batch
from batchnorm.doctor.rule import advice, found
from batchnorm.doctor.step import scores_in
from batchnorm.records import Finding

EVIDENCE = "T"
RANK = 10

WARN_R, ERROR_R = 3.0, 10.0
USUAL = 2  # sizes of batches: all but the last of an epoch have one
INPUT = "the model's input"


def check(patient: Patient) -> Iterator[Finding]:
    """The first layer.

    Later ones see what earlier ones normalized already, and what a network draws for a whole batch, as
    stochastic depth does.
    """
    judged = _judged(patient.training)
    first = next((name for name in judged if not math.isnan(independence_of(judged[name]))), None)
    if first is None or _excess(judged[first]) <= 1:
        return
    series = _by_sample(patient, judged[first])
    if series is None or _excess(series) <= 1:
        return
    ratio = independence_of(series)
    at = first if first == INPUT else f"layer {first}" if first else "the layer"
    yield found(
        "error" if ratio > ERROR_R else "warn",
        None,
        f"The means of batches differ {ratio:.0f} times as much as those of shuffled samples would "
        f"(variance, at {at}): what is in one batch is alike. Training erases that, "
        "prediction does not.",
        advice("shuffle the training data (DataLoader(shuffle=True)), then recalibrate"),
        {"independence": ratio, "at": at},
    )


def left(patient: Patient) -> Gaps:
    """The statistics may be those of the last batches, which are alike, but no others."""
    return beyond_one_batch(patient)


def _judged(examined: Pass) -> Mapping[str, Series]:
    if not examined.moving:
        return examined.series
    return {} if examined.input_series is None else {INPUT: examined.input_series}


def _excess(series: Series) -> float:
    """R over what it takes to be found: 3, or what chance can make of few and small batches."""
    return independence_of(series) / max(WARN_R, independence_by_chance(series))


def _by_sample(patient: Patient, series: Series) -> Series | None:
    """The series with the rows of a sample counted as one; None where samples have different numbers."""
    if len(set(series.items.tolist())) > USUAL:
        return None
    rows, samples = float(series.items.median()), _samples(patient)
    if samples is None or rows <= samples:
        return series
    return None if rows % samples else dataclasses.replace(series, items=series.items * samples / rows)


def _samples(patient: Patient) -> int | None:
    """Samples in a batch; None if nothing tells."""
    examined = patient.training
    rows = [getattr(patient.loader, "batch_size", None), *(input.items for input in examined.inputs[:1])]
    if patient.model is not None and not examined.moving:
        batch = patient.first_batch
        with patient.lent() as loan:
            loan.train()
            rows.append(len(scores_in(patient.forward(patient.model, batch))))
    # One is a loss, or a loader of batches that are made already.
    return min((number for number in rows if isinstance(number, int) and number > 1), default=None)
