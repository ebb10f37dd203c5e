"""Why prediction differs from training: the layers ranked, the first one that explains it, and how sure.

A layer's *own* gap is measured with the layers before it sound, so it is that layer's fault. The gap in
*prediction* also holds what earlier layers' faults do to its input. The first layer of the forward whose own
gap is large is where the fault begins; exchanging its statistics for measured ones shows how much of all gaps
it explains.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from batchnorm.doctor.gap import HARMFUL, INFO_RATIO, Gap, excess_of
from batchnorm.doctor.guard import Loan
from batchnorm.doctor.judge import WARN_RATIO
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.report import LayerGap
from batchnorm.records import Finding

__all__ = ["explain"]

SHOWN = 5  # layers in the ranking

CAUSES = {
    "BN001": "its statistics were never updated",
    "BN002": "its statistics are not finite, or its variance is 0",
    "BN003": "a few wild values still dominate its statistics",
    "BN005": "its statistics are kept in too low a precision to move",
    "BN008": "its statistics belong to other weights (averaged, merged, pruned, edited since) or other data",
    "BN009": "its statistics belong to the live weights, not to the averaged ones",
    "BN011": "its momentum keeps nothing but the last batch",
    "BN012": "its statistics still hold much of their initial values",
    "BN013": "its eps is not that of the training",
    "BN015": "its statistics were switched off but are still used",
    "BN026": "batches are not random samples",
    "BN030": "the data are of another domain",
    "BN033": "it was meant to be frozen but moved on",
    "BN037": "it is updated more than once a step",
    "BN038": "its statistics mix several kinds of input",
}


# Causes that leave the running statistics as training made them.
ELSEWHERE = ("BN032", "BN026", "BN021", "BN020", "BN028", "BN038", "BN014")


def explain(patient: Patient, findings: Sequence[Finding], layers: Sequence[LayerGap]) -> str:
    """The explanation in words; empty if there is no gap to explain.

    Args:
        patient: With data, examined.
        findings: Those that stand, gravest first.
        layers: The gaps, in the order of execution.
    """
    if not layers:
        return ""
    off = [layer.layer for layer in layers if patient.gaps[layer.layer].reaches(INFO_RATIO)]
    if not off:
        others = [finding for finding in findings if finding.code in ELSEWHERE and finding.severity != "info"]
        return _elsewhere(others[0]) if others else ""
    first = off[0]
    called = f"layer {first}" if first else "the layer"
    own = patient.gaps[first]
    here = [finding for finding in findings if finding.layer in (first, None)]
    # Where the gap itself stands, none of the causes accounts for it.
    causes = [f for f in here if f.code in CAUSES] if all(f.code != "BN027" for f in here) else []
    cause = causes[0] if causes else None
    because = CAUSES[cause.code] if cause is not None else "no cause was found beyond the numbers themselves"
    removed = _removed(patient, first)
    mend = cause.fix.text if cause is not None else "batchnorm.recalibrate(model, loader)"
    lines = [
        f"What happened: prediction is not the function that was trained. It begins in {called}: {because}.",
        f"Why it matters here: its output in prediction is {own.size:.2g} standard deviations from its "
        f"output in training, {own.ratio:.2g} times what sampling explains; {len(off)} of {len(layers)} "
        f"layers are off, {patient.excess:.2g} together; accuracy suffers from {HARMFUL:g}.",
        f"How sure: {_sure(own, removed, cause)}",
        f"What would change our mind: a ratio below {INFO_RATIO:g} in {called} on more or other training "
        f"data (it is {own.ratio:.3g} on {len(patient.training.batches)} batches).",
        f"What to do: {mend}" + (f" ({cause.code})." if cause is not None else "."),
        "Layers, worst first (own gap; gap in prediction):",
        *_ranking(layers),
    ]
    return "\n".join(lines)


def _elsewhere(finding: Finding) -> str:
    where = "" if finding.layer is None else f" in {finding.layer or 'the layer'}"
    return (
        "What happened: the running statistics are those of training, yet prediction is not the function "
        f"that was trained{where}: {finding.message}\nWhat to do: {finding.fix.text} ({finding.code})."
    )


def _sure(own: Gap, removed: float | None, cause: Finding | None) -> str:
    words = "quite" if own.reaches(WARN_RATIO) and cause is not None else "fairly"
    if removed is None or removed <= 0:  # another layer's gap may grow
        return f"{words}."
    return (
        f"{words}; with measured statistics in this layer alone, {removed:.0%} of the layers' gaps in "
        "prediction go away."
    )


def _ranking(layers: Sequence[LayerGap]) -> list[str]:
    ranked = sorted(layers, key=lambda layer: -layer.own if layer.own == layer.own else 0.0)
    rows = [
        f"  {layer.layer or '(the model)'}: {layer.own:.3g}; {layer.prediction:.3g}"
        for layer in ranked[:SHOWN]
    ]
    return rows + ([f"  and {len(ranked) - SHOWN} more"] if len(ranked) > SHOWN else [])


def _removed(patient: Patient, layer: str) -> float | None:
    """Share of the squares of all gaps in prediction that goes away with sound statistics in one layer."""
    before = _square(patient.prediction_gaps)
    if not 0 < before < math.inf:  # infinite where statistics are not finite
        return None
    mean, var = patient.training.series[layer].pooled()
    return 1 - _square(_gaps_with(patient, layer, mean, var)) / before


def _gaps_with(patient: Patient, name: str, mean: Tensor, var: Tensor) -> dict[str, Gap]:
    """Gaps in prediction if a layer, of whatever class, had other statistics."""

    def prepare(loan: Loan) -> None:
        norm = loan.model.get_submodule(name)
        for key, values in (("running_mean", mean), ("running_var", var)):
            getattr(norm, key).copy_(values)  # what is lent has copies of its buffers
        loan.predict()

    examined = patient.run(prepare, patient.few)
    exchanged = dataclasses.replace(patient.by_name[name], mean=mean, var=var)
    return patient.predicted(examined, {**patient.by_name, name: exchanged})


def _square(gaps: Mapping[str, Gap]) -> float:
    return excess_of((gap.ratio, gap.size) for gap in gaps.values()) ** 2
