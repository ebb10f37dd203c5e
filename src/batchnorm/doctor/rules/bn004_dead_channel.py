"""A channel that hardly ever varied is amplified enormously by prediction.

Its running variance has fallen to nothing, so weight / √(var + eps) is up to 316: the first input that
is different leaves the layer hundreds of standard deviations away.

Found by: a gain above 100, or a running variance below 10 eps with a weight above 0.01 in size. With data
the channel's outputs decide.

Severity: warn; with data error if the channel's outputs go beyond 10 standard deviations, info if not.

Fix: set the channel's weight to 0, which leaves its bias; or measure the statistics; or raise eps.

Mistaken for it: published weights hold such channels and work; a weight near 0; a layer all of whose
channels are tiny, where eps dominates: BN013; a channel that is constant in some of several domains or time
steps, as the state before the first step of an LSTM.

Reports: TE-08, FO-06, TR-03.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from batchnorm.doctor.judge import confirmed
from batchnorm.doctor.layer import USUAL_EPS, Layer, plain
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "C"
FIXES = ("consent",)
EXPLAINED_BY = ("BN001", "BN002")

GAIN, SHARE_OF_EPS, WEIGHT, BEYOND = 100.0, 10.0, 0.01, 10.0


def check(patient: Patient) -> Iterator[Finding]:
    """Every channel's gain."""
    for layer in patient.layers:
        if layer.var is None:
            continue
        dead = _dead(layer)
        if not dead.any() or dead.double().mean() > 0.5:
            continue
        gain = _gain(layer).reshape(layer.rows, -1)[:, dead]
        yield found(
            "warn",
            layer.name,
            f"{int(dead.sum())} of {len(dead)} channels hardly ever varied in training: prediction amplifies "
            f"them up to {float(gain.max()):.3g} times.",
            consent("set the weight of these channels to 0, or recalibrate, or raise eps"),
            {"channels": float(dead.sum()), "gain": float(gain.max())},
            suspected=True,
        )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """How far the channels' outputs go."""
    assert finding.layer is not None
    layer, series = patient.by_name[finding.layer], patient.training.series.get(finding.layer)
    if series is None or layer.mean is None or layer.eps is None or layer.var is None or layer.rows > 1:
        return finding  # which of several rows of statistics a call reads is not seen
    invstd = (plain(layer.var) + layer.eps).rsqrt()
    reach = (((series.mean - plain(layer.mean)).square() + series.var).sqrt() * invstd).amax(0)
    most = float(reach[_dead(layer)].max())
    return confirmed(finding, {"output": most}, "error" if most > BEYOND else "info")


def mend(repair: Repair, finding: Finding) -> str:
    """Silence the channels."""
    layer = repair.known(finding.layer)
    dead = _dead(layer)
    if layer.weight is None:
        raise ValueError("fix: BN004 expected a layer with weight, got affine=False")
    with torch.no_grad():
        repair.layer(finding.layer).get_parameter("weight")[dead.to(layer.weight.device)] = 0
    return f"weight of {int(dead.sum())} channels is now 0"


def _gain(layer: Layer) -> Tensor:
    gain = layer.gain(USUAL_EPS)
    assert gain is not None
    return gain


def _dead(layer: Layer) -> Tensor:
    """Which channels, ``(C,)``: those that hardly varied in every domain or step."""
    assert layer.var is not None
    var = plain(layer.var)
    weight = torch.ones_like(var) if layer.weight is None else plain(layer.weight).abs()
    dead = (_gain(layer) > GAIN) | ((var < SHARE_OF_EPS * (layer.eps or USUAL_EPS)) & (weight > WEIGHT))
    return dead.reshape(layer.rows, -1).all(0)
