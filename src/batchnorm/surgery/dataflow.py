"""Who calls which layer on what: a network's data flow by torch.fx, as far as it can be traced.

Tracing runs each forward on placeholders. One that asks for values (``if x.sum() > 0``) becomes one opaque
node in the flow of the module that calls it, and is traced by itself on all its ways. Where that fails too,
the modules below it are traced each on its own: they are taken to be called as a whole, with anything, by
anyone.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from batchnorm.surgery.constants import is_norm
from batchnorm.surgery.copied import copied
from batchnorm.surgery.folding import is_plain
from batchnorm.surgery.modules import has_hooks, hooks_of
from batchnorm.surgery.remains import Folded
from batchnorm.surgery.tracing import Tracing
from batchnorm.surgery.ways import Way

__all__ = ["Flow", "data_users", "input_of", "only_asks", "trace_flow"]

_FUNCTIONAL = (F.batch_norm, torch.batch_norm)
_QUESTIONS = ("shape", "ndim", "dtype", "device", "size", "dim", "is_cuda", "is_floating_point")
_LIKE = ("reshape_as", "view_as", "expand_as", "type_as")


@dataclasses.dataclass
class Flow:
    """The calls of a network's leaf modules.

    Attributes:
        network: A copy of the network's modules, traced; it shares all parameters and buffers.
        names: Of its modules.
        calls: By module, the nodes that call it; None for calls from where tracing failed.
        modules: The module that a node calls.
        graphs: Traces of modules, that with the usual arguments first; only of those that do the same then
            whatever the values are.
        read: Identities of the parameters and buffers used otherwise than by a leaf module; of a batch norm,
            also those that are only asked for their type or shape, since folded it has none.
        functional: Functional batch norms: name of the calling module and of the node.
        untraced: Why no one trace shows what these modules do.
        branching: Those of them of which all ways could be traced.
    """

    network: nn.Module
    names: Mapping[nn.Module, str]
    calls: dict[nn.Module, list[fx.Node | None]] = dataclasses.field(
        default_factory=lambda: defaultdict(list)
    )
    modules: dict[fx.Node, nn.Module] = dataclasses.field(default_factory=dict)
    graphs: dict[nn.Module, list[fx.Graph]] = dataclasses.field(default_factory=dict)
    read: set[int] = dataclasses.field(default_factory=set)
    functional: list[str] = dataclasses.field(default_factory=list)
    untraced: dict[str, str] = dataclasses.field(default_factory=dict)
    branching: set[str] = dataclasses.field(default_factory=set)
    _shown: set[nn.Module] = dataclasses.field(default_factory=set)

    def note(self, root: nn.Module, ways: Sequence[Way], error: Exception | None) -> None:
        """Add the ways through a module, and why they are not all."""
        name = self.names[root]
        steady = bool(ways) and not ways[0].answers
        if steady and root not in self._shown:
            self.graphs[root] = [way.graph for way in ways]
        if error is not None:
            self.untraced[name] = f"{type(error).__name__}: {error}"
        elif not steady:
            self.untraced[name] = "goes one way or another by the values"
            self.branching.add(name)
        if steady and error is not None:
            # what the trace looked into is traced once more, each part on its own
            parts = {
                root.get_submodule(node.target) for node in ways[0].graph.nodes if node.op == "call_module"
            }
            called = {module for part in parts for module in part.modules()}
            self._shown |= set(root.modules()) - called


def trace_flow(model: nn.Module, leaves: Collection[str] = ()) -> Flow:
    """Trace a network without data; it is not changed, and no forward of it runs on tensors of its own.

    Args:
        model: Any; traced in the mode it is in.
        leaves: Names of modules that are not to be looked into, besides those that surgery knows.

    Raises:
        ValueError: If the model cannot be copied.
    """
    network = _skeleton(model)
    flow = Flow(network, {module: name for name, module in network.named_modules()})
    # Asked now: while tracing, a module's tensors are placeholders.
    closed = {module for module, name in flow.names.items() if name in leaves or _is_leaf(module)}
    # What hooks see is what goes in and out, so flow must not be followed across such a module's border.
    borders = {module for module in network.modules() if has_hooks(module)}
    tracing = Tracing(closed, borders, flow.names)
    waiting, roots = [network], set[nn.Module]()
    while waiting:
        root = waiting.pop()
        if root in roots:
            continue
        roots.add(root)
        if tracing.is_leaf(root):
            flow.calls[root].append(None)
            waiting.extend(root.children())
            continue
        for hooks in hooks_of(root):
            hooks.clear()  # they would run, on placeholders
        ways, error = tracing.ways(root)
        if error is not None:
            waiting.extend(root.children())
        flow.note(root, ways, error)
        for way in ways:
            for called in _collect(way.graph, root, flow):
                waiting.extend([called] if called in borders else called.children())
    return flow


def input_of(node: fx.Node) -> object:
    """What a call is given first."""
    return node.args[0] if node.args else node.kwargs.get("input")


def data_users(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that use a node's value, not only its shape or type."""
    return (
        user
        for user in node.users
        if not (only_asks(user) or (user.target in _LIKE and user.args[0] is not node))
    )


def only_asks(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape, type or place."""
    if node.target is getattr:
        return node.args[1] in _QUESTIONS
    return node.op == "call_method" and node.target in _QUESTIONS


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy to trace, since a forward may store what it computes; tensors are shared."""
    return copied("fold", model, shared=itertools.chain(model.parameters(), model.buffers()))


def _is_leaf(module: nn.Module) -> bool:
    return is_norm(module) or is_plain(module) or isinstance(module, Folded | torch.jit.ScriptModule)


def _collect(graph: fx.Graph, root: nn.Module, flow: Flow) -> Iterator[nn.Module]:
    """Note all calls and uses of a flow; yield the modules called."""
    for node in graph.nodes:
        if node.op == "call_module":
            module = root.get_submodule(node.target)
            flow.modules[node] = module
            flow.calls[module].append(node)
            yield module
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            module = root.get_submodule(owner)
            tensor = getattr(module, name)
            if isinstance(tensor, Tensor) and (is_norm(module) or any(True for _ in data_users(node))):
                flow.read.add(id(tensor))
        elif node.target in _FUNCTIONAL:
            flow.functional.append(f"{flow.names[root]}:{node.name}".lstrip(":"))
