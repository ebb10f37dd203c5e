"""Who calls which module of a network, and where in whose code."""

import dataclasses
from collections.abc import Iterator

from torch import fx, nn

from batchnorm.surgery.own_code import OwnCode, own_code

__all__ = ["CallSites", "Site", "called_module"]

_NO_FORWARD = nn.Module.forward  # torch's way to say that a module is a mere container


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
            for child in _called_children(module):
                self._owners.setdefault(child, []).append(module)

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
                Site(node, owner, code) for node in code.graph.nodes if called_module(node, owner) is module
            ]
        return sites or "is not called by the module that holds it"


def _called_children(module: nn.Module) -> Iterator[nn.Module]:
    """Children that a module's code can call: those in a mere container are called by who holds it."""
    if type(module).forward is not _NO_FORWARD:
        children = dict.fromkeys(module.children())
        while children:
            child = next(iter(children))
            del children[child]
            yield child
            if type(child).forward is _NO_FORWARD:
                children |= dict.fromkeys(child.children())


def called_module(node: fx.Node, owner: nn.Module) -> nn.Module | None:
    """The module that a node in the code of ``owner`` calls; None if it calls none."""
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None
