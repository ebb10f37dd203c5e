"""Weights are averaged by a recipe that leaves wrong statistics.

Averaging parameters alone leaves the statistics of the live weights. Torch's ``update_bn`` weighs a batch of
2 like a batch of 100, averages variances without the spread of means, and takes layers that ``eval()`` froze
out of their freeze. A plain mean of clients' variances misses the distance between their means.

Found by: the recipe, given as ``averaging``; or a model that is an ``AveragedModel`` without its buffers in
the average, which data confirm or withdraw.

Severity: warn; error for ``update_bn`` with layers that ``eval()`` froze.

Fix: average the parameters, then `batchnorm.recalibrate`, which pools by count and leaves frozen layers
alone.

Mistaken for it: averaged parameters alone, if a recalibration follows (``averaging="recalibrate"``); layers
with `Frozen` statistics, and the fixed ones of other libraries, which no recipe moves.

Reports: MO-07, VA-05, FR-12, EM-01, EM-03, EM-09, EM-10, EM-11.
"""

import dataclasses
from collections.abc import Iterator

from torch.optim.swa_utils import AveragedModel

from batchnorm.doctor.gap import INFO_RATIO, Gaps, gap_of
from batchnorm.doctor.judge import confirmed, withdrawn
from batchnorm.doctor.layer import is_fixed
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding, some_of

EVIDENCE = "O"
RANK = 10
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = ("BN008",)

SHOWN = 3  # layers

WORDS = {
    "parameters": "The average has averaged parameters but the statistics of the live weights.",
    "buffers": "Averaged buffers are no statistics of the averaged weights, and torch leaves counters at 1.",
    "update_bn": "update_bn weighs every batch alike and averages variances, without the spread of means.",
    "clients": "The mean of clients' variances misses the distance between their means.",
}


def check(patient: Patient) -> Iterator[Finding]:
    """The recipe."""
    recipe = patient.settings.averaging
    fixed = [layer for layer in patient.layers if layer.kind == "frozen" or is_fixed(layer.module)]
    tracked = [layer for layer in patient.layers if layer.mean is not None and layer not in fixed]
    if not tracked:
        return
    if recipe in WORDS:
        # The whole model in prediction mode is not frozen, only handed over so.
        frozen = [
            layer.name
            for layer in tracked
            if not layer.normalizes_batches
            or (patient.model is not None and patient.model.training and not layer.training)
        ]
        if recipe == "update_bn" and frozen:
            yield found(
                "error",
                None,
                "update_bn resets frozen layers, measures those that eval() froze on new data and leaves "
                f"these in training mode: {some_of(frozen, SHOWN)}.",
                consent(RECALIBRATE),
                {"frozen": float(len(frozen))},
            )
            return
        yield found("warn", None, WORDS[recipe], consent(RECALIBRATE))
    elif recipe is None and isinstance(patient.model, AveragedModel) and not patient.model.use_buffers:
        yield found("warn", None, WORDS["parameters"], consent(RECALIBRATE), suspected=True)


def confirm(patient: Patient, finding: Finding) -> Finding:
    """On the data the statistics must be off somewhere."""
    worst = max((gap.ratio for gap in patient.gaps.values() if gap.reaches(INFO_RATIO)), default=0.0)
    if worst:
        return confirmed(finding, {"gap_ratio": worst})
    return withdrawn(finding, "on the data the statistics are sound")


def left(patient: Patient) -> Gaps:
    """How far the statistics are from those of the live weights; all of the gaps if these are not known."""
    live = patient.settings.averaged_from
    if live is None:
        return patient.gaps
    series = dataclasses.replace(patient, model=live).training.series
    own = {name: series.get(name.removeprefix("module.")) for name in patient.gaps}
    gaps = {name: gap_of(patient.by_name[name], seen) for name, seen in own.items() if seen is not None}
    return {name: gaps.get(name) or gap for name, gap in patient.gaps.items()}


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them, which then belongs to the recipe."""
    if repair.settings.averaging is not None:
        repair.changed["averaging"] = "recalibrate"
    return repair.recalibrate(None)
