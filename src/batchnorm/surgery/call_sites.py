"""Who calls which module of a network, and where in whose code."""

import dataclasses
import inspect
from collections.abc import Iterator

from torch import fx, nn

from batchnorm.surgery.own_code import OwnCode, own_code

__all__ = ["CallSites", "Site", "called_module", "holding_names"]

_NO_FORWARD = nn.Module.forward  # torch's way to say that a module is a mere container
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One call of a module.

    Attributes:
        node: The call.
        owner: The module in whose ``forward`` it stands.
        code: Of that.
    """

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

    def of(self, module: nn.Module) -> list[Site] | str:
        """All calls of a module; why they cannot be known, if they cannot."""
        if module not in self._owners:
            return "is called from outside"
        sites = []
        for owner in self._owners[module]:
            if owner not in self._codes:
                self._codes[owner] = own_code(owner)
            code = self._codes[owner]
            if isinstance(code, str):
                return code
            sites += [
                Site(node, owner, code)
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
        if name not in _OF_EVERY_MODULE:
            waiting += [(name, part) for part in _modules_in(value)]
    for name, part in waiting:
        if part is not None:
            yield name, part
            if _is_container(part):
                waiting += [(name, child) for child in part.children()]


def _modules_in(value: object) -> Iterator[nn.Module]:
    """Modules in plain lists and the like, where torch does not see them."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        yield from _modules_in(list(value.values()))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _modules_in(item)


def _is_container(module: nn.Module) -> bool:
    # looked up so since a ScriptModule's class raises when it is asked for it
    return inspect.getattr_static(type(module), "forward") is _NO_FORWARD


def called_module(node: fx.Node, owner: nn.Module) -> nn.Module | None:
    """The module that a node in the code of ``owner`` calls; None if it calls none."""
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None
