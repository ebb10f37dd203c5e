"""Batch norm that cannot be folded into its neighbour as the plain pair can.

Folding multiplies a convolution's weight by weight / √(var + eps). That is only right if nobody else
uses the convolution, and if statistics are fixed.

Found by, with ``goal="fold"``: the traced graph. A convolution that is called twice or has another user,
a pair called twice, a live addition in between, a layer in training mode or without statistics, a transposed
convolution, grouped or not, a layer of unknown class, a layer before a zero-padded convolution. And code that
cannot be traced, if it holds a batch norm, or a convolution beside one; any other may be what it likes.

Severity: error.

Fix: `batchnorm.fold` folds only what is exact, as a transposed convolution with groups or not, or a pair
called twice. Of the others, those with fixed statistics become one scale and shift, and the rest stays.

Mistaken for it: reflect, replicate and circular padding, which are exact; a grouped ordinary convolution.

Reports: CK-07, FO-01, FO-02, FO-03, FO-04, FO-05, FO-08, EX-06.
"""

import operator
from collections.abc import Iterator

import torch
from torch import nn

from batchnorm.doctor.graph import Graph, Site
from batchnorm.doctor.layer import Layer
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "S"

Conv = nn.modules.conv._ConvNd
Transposed = nn.modules.conv._ConvTransposeNd
ADDITIONS = (operator.add, operator.iadd, torch.add)
LEAVE = advice("leave it unfolded, or fold with batchnorm.fold, which folds only what is exact")


def check(patient: Patient) -> Iterator[Finding]:
    """Layers, then their places in the graph."""
    if patient.settings.goal != "fold":
        return
    for layer in patient.layers:
        if why := _itself(layer):
            yield found("error", layer.name, f"Not to be folded: {why}.", LEAVE)
    graph = patient.graph
    untraced = ("",) if graph is None else graph.opaque
    if untraced and patient.layers:
        modules = ", ".join(f"module {name}" if name else type(patient.model).__name__ for name in untraced)
        yield found(
            "error",
            None,
            f"The forward of {modules} cannot be traced, so nobody sees which convolutions in it have other "
            "users.",
            advice("batchnorm.fold with an example folds what can be traced and measures the difference"),
        )
    if graph is None:
        return
    # A layer that is called twice has one finding.
    unsafe = ((site, why) for site in (*graph.sites, *graph.forks) if (why := _place(graph, site)))
    for site, why in {site.layer: (site, why) for site, why in reversed(list(unsafe))}.values():
        yield found("error", site.layer, f"Not to be folded as a plain pair: {why}.", LEAVE)


def _itself(layer: Layer) -> str:
    if layer.kind == "foreign":
        return f"{type(layer.module).__name__} is no class whose arithmetic is known"
    if layer.mean is None:
        return "it keeps no running statistics"
    return "it is in training mode, where statistics are the batch's" if layer.training else ""


def _place(graph: Graph, site: Site) -> str:
    producer = graph.producer(site.node)
    module = graph.module(producer)
    if isinstance(module, Conv | nn.Linear) and producer is not None:
        name = f"layer {graph.name(producer)}"
        if graph.calls(site.node) > 1:
            return f"it is called {graph.calls(site.node)} times"
        if graph.calls(producer) > 1:
            return f"{name} is called {graph.calls(producer)} times"
        if len(producer.users) > 1:
            return f"{name} has {len(producer.users)} users, and the others need it unscaled"
        if isinstance(module, Transposed):
            grouped = f", and {module.groups} groups have a scale each" if module.groups > 1 else ""
            return f"{name} is transposed: its outputs lie on its weight's second axis{grouped}"
        return ""
    added = producer is not None and (producer.target in ADDITIONS or producer.target == "add")
    if added and producer is not None:
        makers = [graph.module(node) for node in producer.all_input_nodes]
        if len(makers) > 1 and any(isinstance(maker, Conv | nn.Linear) for maker in makers):
            return "a live addition stands between it and the convolution"
    for user in site.node.users:
        after = graph.module(user)
        if isinstance(after, Conv) and not isinstance(after, Transposed) and after.padding_mode == "zeros":
            padded = after.padding == "same" or any(isinstance(p, int) and p for p in after.padding)
            if padded:
                return f"layer {graph.name(user)} after it pads with zeros, which are not zeros before it"
    return ""
