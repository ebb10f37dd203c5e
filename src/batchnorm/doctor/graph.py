"""Who feeds a batch-norm layer and who uses it, as far as torch.fx can follow the model's forward."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch.fx
from torch import nn

from batchnorm.doctor.layer import Layer
from batchnorm.surgery.dataflow import Flow, input_of, trace_flow

__all__ = ["Graph", "Site", "trace"]

LINEAR = (nn.modules.conv._ConvNd, nn.Linear)


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
        sites: Calls of the layers; in a module that goes one way or another by the values, only of those that
            one and the same module feeds on every way.
        unseen: Names of modules of which no one trace shows what they do, and that call a batch norm, or hold
            one and so perhaps call it.
        opaque: Those of them that could not be traced on all ways; and other such modules that hold a
            convolution or linear layer beside a module that begins with a batch norm, so that it may feed it.
        forks: Calls of the layers in those that could, on all ways.
    """

    def __init__(self, flow: Flow, layers: set[str]) -> None:
        self._flow = flow
        named = {name: module for module, name in flow.names.items()}
        steady = [
            Site(self.name(node), node)
            for graphs in flow.graphs.values()
            for node in graphs[0].nodes
            if node in flow.modules and self.name(node) in layers
        ]
        traced = {site.layer for site in steady}
        paired = [Site(name, *nodes[:1]) for name in layers - traced if (nodes := self._paired(named[name]))]
        self.sites = (*steady, *sorted(paired, key=lambda site: site.layer))
        seen = {site.layer for site in self.sites}
        hidden = {name: self._hides(named[name]) for name in named if name in layers - seen}
        self.unseen = tuple(dict.fromkeys(hider for hider in hidden.values() if hider is not None))
        alone = [self._holder(self._owner(site.node)) for site in self.sites if self._is_alone(site.node)]
        beside = [
            name
            for name in alone
            if name in flow.untraced and any(isinstance(m, LINEAR) for m in named[name].children())
        ]
        self.opaque = tuple(dict.fromkeys(n for n in (*self.unseen, *beside) if n not in flow.branching))
        self.forks = tuple(
            Site(name, node)
            for name, hider in hidden.items()
            for node in flow.calls[named[name]]
            if hider in flow.branching and node is not None
        )

    def _paired(self, layer: nn.Module) -> list[torch.fx.Node]:
        """The calls of a layer on all ways, if one and the same module feeds it on each, and nothing else."""
        nodes = [node for node in self._flow.calls[layer] if node is not None]
        feeders = [self.producer(node) for node in nodes]
        fed_by = {self.module(feeder) for feeder in feeders}
        if len(nodes) < len(self._flow.calls[layer]) or len(fed_by) != 1:
            return []
        (module,) = fed_by
        alone = all(feeder is not None and len(feeder.users) == 1 for feeder in feeders)
        return nodes if module is not None and alone and set(self._flow.calls[module]) == set(feeders) else []

    def _hides(self, layer: nn.Module) -> str | None:
        """The untraced module that calls a layer, or may since it holds it; None if there is none."""
        name = self._flow.names[layer]
        if not any(self._flow.calls[layer]):
            holder = self._holder(name)
            return holder if holder in self._flow.untraced else None
        while name:
            name = name.rpartition(".")[0]
            if name in self._flow.untraced:
                return name
        return None

    def _holder(self, name: str) -> str:
        """Who holds a module, lists and dictionaries left out; the name itself of the whole network."""
        while name:
            name = name.rpartition(".")[0]
            module = self._flow.network.get_submodule(name)
            if not isinstance(module, nn.ModuleList | nn.ModuleDict):
                break
        return name

    def _owner(self, node: torch.fx.Node) -> str:
        """In whose forward a node is."""
        return next(self._flow.names[m] for m, graphs in self._flow.graphs.items() if node.graph in graphs)

    def _is_alone(self, node: torch.fx.Node) -> bool:
        """Whether what feeds a layer lies outside of the code that is traced with it."""
        before = self.producer(node)
        return before is None or before.op == "placeholder"

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
