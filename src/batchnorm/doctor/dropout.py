"""Dropout before a layer, which makes its input another in training than in prediction."""

import torch
import torch.fx
from torch import nn

from batchnorm.doctor.graph import Graph

__all__ = ["dropout_rates"]

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
FUNCTIONS = (nn.functional.dropout, nn.functional.dropout1d, nn.functional.dropout2d, nn.functional.dropout3d)
# A layer between the two that has no parameters or mixes linearly lets the noise through.
THROUGH = (nn.modules.conv._ConvNd, nn.Linear, nn.Flatten, nn.Unflatten, nn.Identity)
PACKAGES = ("torch.nn.modules.activation", "torch.nn.modules.pooling")


def dropout_rates(graph: Graph) -> dict[str, float]:
    """Rates by the layers that have a dropout before them, in the order of the graph."""
    rates = {site.layer: _rate(graph, site.node) for site in graph.sites}
    return {name: rate for name, rate in rates.items() if rate}


def _rate(graph: Graph, node: torch.fx.Node) -> float:
    """Rate of the dropout upstream; 0 if there is none."""
    for above in graph.upstream(node):
        module = graph.module(above)
        if isinstance(module, DROPOUTS):
            return float(module.p)
        if module is None:
            if above.target in FUNCTIONS:
                return float([*above.args[1:2], above.kwargs.get("p", 0.5)][0])  # type: ignore[arg-type]
            if above.target in (nn.functional.relu, torch.flatten, torch.relu) or above.op == "call_method":
                continue
            return 0.0
        if not isinstance(module, THROUGH) and type(module).__module__ not in PACKAGES:
            return 0.0
    return 0.0
