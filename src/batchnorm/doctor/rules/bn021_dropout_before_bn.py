"""Dropout before batch norm makes the variance in training larger than in prediction.

Training zeroes inputs and scales up the rest, so the running variance is that of noise which prediction
does not have: 4.01 in training, 0.010 in prediction, for dropout 0.5 before a layer.

Found by: the traced graph: dropout upstream with only linear, convolution, pooling or activation between.
With data: the layer's input varies less in prediction than 0.8 of what it does in training.

Severity: info; warn when confirmed.

Fix: batch norm first, then dropout; or measure the statistics, which is done with dropout off.

Mistaken for it: a small rate, or wide layers after the dropout, as in wide residual networks.

Reports: TE-13, IN-09.
"""

from collections.abc import Iterator

import torch.fx
from torch import nn

from batchnorm.doctor.graph import Graph
from batchnorm.doctor.judge import confirmed, withdrawn
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
RANK = 9

LESS = 0.8
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# A layer between the two that has no parameters or mixes linearly lets the noise through.
THROUGH = (nn.modules.conv._ConvNd, nn.Linear, nn.Flatten, nn.Unflatten, nn.Identity)
PACKAGES = ("torch.nn.modules.activation", "torch.nn.modules.pooling")


def check(patient: Patient) -> Iterator[Finding]:
    """What is upstream."""
    graph = patient.graph
    for site in graph.sites if graph is not None else ():
        assert graph is not None
        rate = _dropout(graph, site.node)
        if rate and patient.by_name[site.layer].mean is not None:
            yield found(
                "info",
                site.layer,
                f"Dropout with rate {rate:g} comes before it: the running variance is that of training's "
                "noise.",
                consent(f"batch norm first, then dropout; or {RECALIBRATE}, dropout off"),
                {"rate": rate},
                suspected=True,
            )


def confirm(patient: Patient, finding: Finding) -> Finding:
    """Variance in prediction over that in training."""
    assert finding.layer is not None
    series = patient.training.series.get(finding.layer), patient.prediction.series.get(finding.layer)
    if series[0] is None or series[1] is None:
        return finding
    ratio = float((series[1].within / series[0].within).nanmedian())
    evidence: dict[str, float | str] = {"prediction_over_training_variance": ratio}
    if ratio < LESS:
        return confirmed(finding, evidence, "warn")
    return withdrawn(
        finding, f"in prediction the input varies {ratio:.2f} times as much as in training", evidence
    )


def mend(repair: Repair, finding: Finding) -> str:
    """Measure them, dropout off."""
    return repair.recalibrate(finding.layer)


def _dropout(graph: Graph, node: torch.fx.Node) -> float:
    """Rate of the dropout upstream; 0 if there is none."""
    for above in graph.upstream(node):
        module = graph.module(above)
        if isinstance(module, DROPOUTS):
            return float(module.p)
        if module is None:
            if above.target in (nn.functional.dropout, nn.functional.dropout2d):
                return float(above.kwargs.get("p", 0.5))  # type: ignore[arg-type]
            if above.target in (nn.functional.relu, torch.flatten, torch.relu) or above.op == "call_method":
                continue
            return 0.0
        if not isinstance(module, THROUGH) and type(module).__module__ not in PACKAGES:
            return 0.0
    return 0.0
