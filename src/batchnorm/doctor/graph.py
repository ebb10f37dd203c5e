"""Who feeds a batch-norm layer and who uses it, as far as torch.fx can follow the model's forward."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch.fx
from torch import nn

from batchnorm.doctor.layer import Layer
from batchnorm.surgery.dataflow import Flow, input_of, trace_flow

__all__ = ["Graph", "Site", "trace"]


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the graph where a layer is called."""

    layer: str
    node: torch.fx.Node


class Graph:
    """A traced model: each module that can be traced as a whole, with the calls of layers in it.

    Args:
        flow: The traces; where an argument may be left out, the one without it is taken.
        layers: Names of the batch-norm layers.

    Attributes:
        sites: Calls of the layers.
        untraced: Why the forward of these modules could not be traced, by name.
    """

    def __init__(self, flow: Flow, layers: set[str]) -> None:
        self._flow = flow
        self.untraced = flow.untraced
        self.sites = tuple(
            Site(self.name(node), node)
            for graphs in flow.graphs.values()
            for node in graphs[0].nodes
            if node in flow.modules and self.name(node) in layers
        )

    def module(self, node: torch.fx.Node | None) -> nn.Module | None:
        """The module that a node calls, if it calls one: a copy without data of its own."""
        return None if node is None else self._flow.modules.get(node)

    def name(self, node: torch.fx.Node) -> str:
        """Name of the module that a node calls."""
        return self._flow.names[self._flow.modules[node]]

    def producer(self, node: torch.fx.Node) -> torch.fx.Node | None:
        """What makes the first input of a node."""
        first = input_of(node)
        return first if isinstance(first, torch.fx.Node) else None

    def calls(self, node: torch.fx.Node) -> int:
        """How often the graph calls the module of a node."""
        module = self.module(node)
        return sum(self.module(other) is module for other in node.graph.nodes)

    def upstream(self, node: torch.fx.Node) -> Iterator[torch.fx.Node]:
        """The chain of first inputs, nearest first."""
        current = self.producer(node)
        while current is not None:
            yield current
            current = self.producer(current)

    def feeds_output(self, node: torch.fx.Node) -> bool:
        """Whether the node's result is the model's."""
        whole = self._flow.graphs.get(self._flow.network, [])
        return node.graph in whole and any(user.op == "output" for user in node.users)


def trace(model: nn.Module, layers: Sequence[Layer]) -> Graph | None:
    """Trace a model; None if it cannot be copied.

    Args:
        model: Lent: tracing runs its Python code, on placeholders.
        layers: Its batch-norm layers; they are not looked into.
    """
    names = {layer.name for layer in layers}
    try:
        return Graph(trace_flow(model, names), names)
    except Exception:  # whatever a model's own code raises when it is copied or meets a placeholder
        return None
