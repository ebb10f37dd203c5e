"""Batch norm and the activation that alone uses its output, perhaps with an addition between, in a graph."""

import dataclasses
import operator

import torch
from torch import fx, nn

from batchnorm.surgery.activations import activation_of, in_words
from batchnorm.surgery.call_sites import CallSites, called_module, called_name
from batchnorm.surgery.graph_functions import in_place
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.modules import has_hooks

__all__ = ["Pair", "addend", "changes", "find_pair"]

_ADD_FUNCTIONS = (operator.add, torch.add)
_ADD_METHODS = ("add", "add_")


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """One call of a batch-norm layer and what it can do besides.

    Attributes:
        norm: The call.
        identities: Calls of `nn.Identity` on the way.
        add: The addition of a residual to its output, if there is one.
        act: The call of the activation.
        activation: Its name.
    """

    norm: fx.Node
    identities: tuple[fx.Node, ...]
    add: fx.Node | None
    act: fx.Node
    activation: str


def find_pair(norm: fx.Node, owner: nn.Module, sites: CallSites) -> Pair | str | None:
    """The pair that begins with a call of batch norm; why there is none, if there is none.

    Args:
        norm: The call, in the graph of ``owner``; of batch norm, or of a module that returns its output.
        owner: The module whose code this is.
        sites: Of the network.

    Returns:
        None if the output is what ``owner`` returns, so that the pair may end in the code of its caller.
    """
    if isinstance(called_module(norm, owner), BatchNorm) and (len(norm.args) != 1 or norm.kwargs):
        return "is called with more than its input"
    value, identities = norm, []
    while (user := _only_user(value)) is not None and _is_identity(user, owner):
        identities.append(value := user)
    if user is None:
        return f"its output has {len(value.users)} uses"
    if user.op == "output":
        returned = user.args[0] is value
        return None if returned else f"its output leaves {type(owner).__name__} among others"
    name = activation_of(user, owner, sites)
    if name is not None:
        return Pair(norm, tuple(identities), None, user, name)
    residual = addend(user, value)
    if residual is None:
        what = in_words(user, owner)
        return "no activation follows" if what is None else f"{what} follows, which no layer can apply"
    act = _only_user(user)
    if act is None:
        return f"its sum with another has {len(user.users)} uses"
    name = activation_of(act, owner, sites)
    if name is None:
        what = in_words(act, owner)
        reason = "no activation follows the addition"
        return reason if what is None else f"after the addition follows {what}, which no layer can apply"
    if changes(user) is residual and not _is_fresh(residual):
        return "its residual is changed in place"
    # The layer will be called where the activation is now.
    inputs = (*norm.all_input_nodes, residual)
    users = (node for input in inputs for node in input.users if node is not user)
    if any(norm < node < act and _may_write(node, owner) for node in users):
        return "its input or residual is changed before the activation"
    return Pair(norm, tuple(identities), user, act, name)


def addend(add: fx.Node, value: fx.Node) -> fx.Node | None:
    """What a node adds to ``value``; None if it is no such addition."""
    operands = list(add.args)
    if add.target is in_place:
        known = operands.pop(0) == "iadd"
    else:
        known = add.target in (_ADD_METHODS if add.op == "call_method" else _ADD_FUNCTIONS)
    others = [operand for operand in operands if operand is not value]
    if not known or add.kwargs or len(operands) != 2 or len(others) != 1:
        return None
    return others[0] if isinstance(others[0], fx.Node) else None


def changes(node: fx.Node) -> fx.Node | None:
    """Which value an operation writes into, if into any; what modules do is not seen."""
    name = called_name(node)
    if node.target is in_place:
        changed = node.args[1]
    elif (
        node.target is operator.setitem
        or node.kwargs.get("inplace") is True
        or (name.endswith("_") and not name.endswith("__"))
    ):
        changed = node.args[0]
    else:
        return None
    return changed if isinstance(changed, fx.Node) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_identity(node: fx.Node, owner: nn.Module) -> bool:
    module = called_module(node, owner)
    return type(module) is nn.Identity and not has_hooks(module)


def _is_fresh(node: fx.Node) -> bool:
    """Whether a value is made here and used once, so that nobody sees it change."""
    return node.op not in ("placeholder", "get_attr") and len(node.users) == 1


def _may_write(node: fx.Node, owner: nn.Module) -> bool:
    called = called_module(node, owner)
    if called is None:
        return changes(node) is not None
    return any(getattr(module, "inplace", False) for module in called.modules())
