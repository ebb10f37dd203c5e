"""Running statistics are kept in half or bfloat16, where small updates round to nothing.

An update smaller than half a unit in the last of 8 bits is lost: with momentum 0.01 a bfloat16 running
variance sticks at 1.0078 where the truth is 1.438. Nothing says so.

Found by: the dtype of the running statistics of a layer that tracks them; that of weight and bias, if the
optimizer holds these very tensors; and a layer of torch whose weight has another dtype than its statistics,
which torch refuses.

Severity: error if training continues; warn for a checkpoint; info for a model that only predicts.

Fix: cast the layer to float32, which is exact; the digits that were lost come back only by measuring the
statistics. Layers of this package keep their statistics in float32 whatever cast is asked.

Mistaken for it: half inputs into a float32 layer, which is right; weights in half of which an optimizer holds
float32 masters.

Reports: EP-06, FR-11, DT-01, DT-02, DT-03, DT-04, DT-05.
"""

import dataclasses
from collections.abc import Iterator

import torch

from batchnorm.doctor.gap import Gaps, gap_of
from batchnorm.doctor.layer import Layer, is_ours, plain
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.passes import Series
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import found, safe
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 7
FIXES = ("safe",)

HALF = (torch.float16, torch.bfloat16)
CURE = safe("layer.float() keeps the layer in float32; then recalibrate for the digits that were lost")


def check(patient: Patient) -> Iterator[Finding]:
    """Dtypes of the statistics, then of the weights."""
    severity = "error" if patient.trains else "warn" if patient.model is None else "info"
    for layer in patient.layers:
        if layer.mean is None or not layer.tracks:
            continue
        kind, weights = layer.mean.dtype, None if layer.weight is None else layer.weight.dtype
        if kind in HALF:
            yield found(
                severity,
                layer.name,
                f"Running statistics in {_short(kind)}: updates below half a unit in the last digit are "
                "lost, so they stop moving before they are right.",
                CURE,
                {"dtype": _short(kind)},
            )
        elif weights is not None and weights != kind and _refuses(layer):
            yield found(
                "error",
                layer.name,
                f"Weight in {_short(weights)} and running statistics in {_short(kind)}: torch refuses this "
                "pair, whatever the input.",
                CURE,
                {"dtype": _short(weights)},
            )
        elif weights in HALF and weights is not None and _is_trained(patient, layer):
            yield found(
                "error",
                layer.name,
                f"The optimizer trains weight and bias in {_short(weights)}: a step below half a unit in the "
                "last digit is lost, and a weight of 1 never moves at the usual rates.",
                CURE,
                {"dtype": _short(weights)},
            )


def left(patient: Patient) -> Gaps:
    """As if they had moved on to where an update is half a unit in the last digit."""
    series = patient.training.series
    moved = {name: _moved_on(patient.by_name[name], series[name]) for name in patient.gaps}
    return {name: gap_of(moved[name], series[name]) or gap for name, gap in patient.gaps.items()}


def _moved_on(layer: Layer, series: Series) -> Layer:
    assert layer.mean is not None
    assert layer.var is not None
    if layer.mean.dtype not in HALF:
        return layer
    share = torch.finfo(layer.mean.dtype).eps / 2 / (layer.momentum or 1 / (layer.count or 1))
    held = (plain(layer.mean), series.pooled()[0]), (plain(layer.var), series.within)
    mean, var = (own + (right - own).clamp(-share * own.abs(), share * own.abs()) for own, right in held)
    return dataclasses.replace(layer, mean=mean, var=var)


def mend(repair: Repair, finding: Finding) -> str:
    """Cast the layer."""
    repair.layer(finding.layer).float()
    return "in float32 now"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuses(layer: Layer) -> bool:
    """Whether its forward is torch's, which takes one dtype for all four tensors."""
    return layer.kind in ("batch", "sync") and not is_ours(layer.module)


def _is_trained(patient: Patient, layer: Layer) -> bool:
    """Whether the optimizer holds the layer's own parameters, and no copies of theirs."""
    assert layer.module is not None
    return any(id(p) in patient.held for p in layer.module.parameters(recurse=False))
