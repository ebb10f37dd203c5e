"""Who calls which module of a network, and where in whose code."""

import dataclasses
import inspect
from collections.abc import Iterator

from torch import fx, nn

from batchnorm.surgery.modules import OF_EVERY_MODULE, modules_in
from batchnorm.surgery.own_code import OwnCode, own_code

__all__ = ["CallSites", "Site", "called_module", "called_name", "holding_names"]

_NO_FORWARD = nn.Module.forward  # torch's way to say that a module is a mere container


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One call of a module.

    Attributes:
        called: The module.
        node: The call.
        owner: The module in whose ``forward`` it stands.
        code: Of that.
    """

    called: nn.Module
    node: fx.Node
    owner: nn.Module
    code: OwnCode


class CallSites:
    """The calls of modules in the code of those that hold them; each code is traced once, when asked for.

    Args:
        model: Any network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners: dict[nn.Module, list[nn.Module]] = {}
        self._codes: dict[nn.Module, OwnCode | str] = {}
        for module in model.modules():
            for child in dict.fromkeys(part for _, part in _called_parts(module)):
                self._owners.setdefault(child, []).append(module)

    def holders(self, module: nn.Module) -> list[nn.Module]:
        """The modules whose code can call a module."""
        return self._owners.get(module, [])

    def code_of(self, module: nn.Module) -> OwnCode | str:
        """What a module's own code does; why it cannot be known, if it cannot."""
        if module not in self._codes:
            self._codes[module] = own_code(module)
        return self._codes[module]

    def of(self, module: nn.Module) -> list[Site] | str:
        """All calls of a module; why they cannot be known, if they cannot."""
        if module not in self._owners:
            return "is called from outside"
        sites = []
        for owner in self._owners[module]:
            code = self.code_of(owner)
            if isinstance(code, str):
                return code
            sites += [
                Site(module, node, owner, code)
                for graph in code.graphs
                for node in graph.nodes
                if called_module(node, owner) is module
            ]
        return sites or "is not called by the module that holds it"


def holding_names(owner: nn.Module, module: nn.Module) -> set[str]:
    """The attributes by which the code of ``owner`` can reach a module."""
    return {name for name, part in _called_parts(owner) if part is module}


def _called_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that a module's code can call: those in a mere container are called by who holds it."""
    if _is_container(module):
        return
    waiting = [*module._modules.items()]
    for name, value in vars(module).items():
        if name not in OF_EVERY_MODULE:
            waiting += [(name, part) for part in modules_in(value)]
    for name, part in waiting:
        if part is not None:
            yield name, part
            if _is_container(part):
                waiting += [(name, child) for child in part.children()]


def _is_container(module: nn.Module) -> bool:
    # looked up so since a ScriptModule's class raises when it is asked for it
    return inspect.getattr_static(type(module), "forward") is _NO_FORWARD


def called_module(node: fx.Node, owner: nn.Module) -> nn.Module | None:
    """The module that a node in the code of ``owner`` calls; None if it calls none."""
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def called_name(node: fx.Node) -> str:
    """Name of the function or method that a node calls; empty if it has none."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
