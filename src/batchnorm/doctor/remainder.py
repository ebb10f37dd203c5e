"""What would be left of the layers' gaps without a cause that makes the statistics those of other values."""

import dataclasses

import torch

from batchnorm.doctor.gap import Gap, Gaps, gap_of
from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.passes import Series
from batchnorm.doctor.patient import Patient

__all__ = ["beyond_one_batch", "unmixed", "unmixed_layer"]


def beyond_one_batch(patient: Patient) -> Gaps:
    """Where the statistics may be those of any one batch: what the farthest batch's would not explain."""
    series = patient.training.series
    return {
        name: gap.beyond(_farthest_batch(patient.by_name[name], series[name]))
        for name, gap in patient.gaps.items()
    }


def _farthest_batch(layer: Layer, series: Series) -> Gap:
    unbiased = series.var * (series.count / (series.count - 1).clamp_min(1)).unsqueeze(1)
    of_batches = [
        gap_of(dataclasses.replace(layer, mean=mean, var=var), series)
        for mean, var in zip(series.mean, unbiased, strict=True)
    ]
    return max((gap for gap in of_batches if gap is not None), key=lambda gap: gap.ratio)


def unmixed(patient: Patient) -> Gaps:
    """Where each forward of a training step moves the statistics: if only one like the loader's had."""
    return {
        name: gap_of(unmixed_layer(patient, name), patient.training.series[name]) or gap
        for name, gap in patient.gaps.items()
    }


def unmixed_layer(patient: Patient, name: str) -> Layer:
    """The layer with statistics as far from those of the first batch as its own are from those of a step."""
    layer, series = patient.by_name[name], patient.training.series[name]
    step = [call.moments for call in patient.step if call.layer == name and call.training]
    seen = [moments for moments in step if moments is not None]
    if not seen:
        return layer
    assert layer.mean is not None
    assert layer.var is not None
    kept = 1 - (layer.momentum or 0.0)
    weights = torch.tensor([kept**later for later in reversed(range(len(seen)))]).double().unsqueeze(1)
    mean, var = (
        (weights * torch.stack(values)).sum(0) / weights.sum()
        for values in ([moments.mean for moments in seen], [moments.var for moments in seen])
    )
    return dataclasses.replace(
        layer,
        mean=plain(layer.mean) - (mean - series.mean[0]),
        var=plain(layer.var) * series.var[0] / var,
    )
