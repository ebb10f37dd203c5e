"""Who feeds a batch-norm layer and who uses it: the model's graph, as torch.fx traces it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch.fx
from torch import nn

from batchnorm.doctor.layer import Layer

__all__ = ["Graph", "Site", "trace"]


class _Tracer(torch.fx.Tracer):
    def __init__(self, leaves: set[int]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self._leaves or not list(m.children())


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the graph where a layer is called."""

    layer: str
    node: torch.fx.Node


class Graph:
    """A traced model.

    Args:
        model: What was traced.
        graph: The trace.
        layers: Names of its batch-norm layers.
    """

    def __init__(self, model: nn.Module, graph: torch.fx.Graph, layers: set[str]) -> None:
        self.graph = graph
        self._modules = dict(model.named_modules())
        self.sites = tuple(
            Site(str(node.target), node)
            for node in graph.nodes
            if node.op == "call_module" and node.target in layers
        )

    def module(self, node: torch.fx.Node | None) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        if node is None or node.op != "call_module":
            return None
        return self._modules.get(str(node.target))

    def producer(self, node: torch.fx.Node) -> torch.fx.Node | None:
        """What makes the first input of a node."""
        first = node.args[0] if node.args else None
        return first if isinstance(first, torch.fx.Node) else None

    def calls(self, node: torch.fx.Node) -> int:
        """How often the graph calls the module of a node."""
        return sum(other.op == "call_module" and other.target == node.target for other in self.graph.nodes)

    def upstream(self, node: torch.fx.Node) -> Iterator[torch.fx.Node]:
        """The chain of first inputs, nearest first."""
        current = self.producer(node)
        while current is not None:
            yield current
            current = self.producer(current)

    def feeds_output(self, node: torch.fx.Node) -> bool:
        """Whether the node's result is the model's."""
        return any(user.op == "output" for user in node.users)


def trace(model: nn.Module, layers: tuple[Layer, ...]) -> Graph | None:
    """Trace a model; None if torch.fx cannot (control flow on data).

    Args:
        model: Lent: tracing runs its Python code.
        layers: Its batch-norm layers; they are not looked into.
    """
    leaves = {id(layer.module) for layer in layers}
    traced: Any
    try:
        traced = _Tracer(leaves).trace(model)
    except Exception:  # whatever a model's own code raises when it meets a proxy
        return None
    return Graph(model, traced, {layer.name for layer in layers})
