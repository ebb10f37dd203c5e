"""Batch norm and the activation that alone uses its output, perhaps with an addition between, in a graph."""

import dataclasses
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from batchnorm.surgery.call_sites import called_module
from batchnorm.surgery.graph_functions import in_place
from batchnorm.surgery.layers import BatchNorm

__all__ = ["Pair", "addend", "changes", "find_pair", "has_hooks"]

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU6: "relu6",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
}
_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu: "relu",
    F.leaky_relu: "leaky_relu",
    F.relu6: "relu6",
    torch.sigmoid: "sigmoid",
    torch.sigmoid_: "sigmoid",
    torch.tanh: "tanh",
    torch.tanh_: "tanh",
    F.silu: "silu",
    F.gelu: "gelu",
    F.hardswish: "hardswish",
}
_METHODS = {name + end: name for name in ("relu", "sigmoid", "tanh") for end in ("", "_")}
_ADD_FUNCTIONS = (operator.add, torch.add)
_ADD_METHODS = ("add", "add_")
# What an activation may be given beside its input and still be the one that a layer can apply.
_OPTIONS = {"inplace": (True, False), "negative_slope": (0.01,), "approximate": ("none",)}


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


def find_pair(norm: fx.Node, owner: nn.Module) -> Pair | str | None:
    """The pair that begins with a call of batch norm; why there is none, if there is none.

    Args:
        norm: The call, in the graph of ``owner``; of batch norm, or of a module that returns its output.
        owner: The module whose code this is.

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
    name = _activation(user, owner)
    if name is not None:
        return Pair(norm, tuple(identities), None, user, name)
    residual = addend(user, value)
    if residual is None:
        return "no activation follows"
    act = _only_user(user)
    name = None if act is None else _activation(act, owner)
    if act is None or name is None:
        return "no activation follows the addition"
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
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.target is in_place:
        changed = node.args[1]
    elif node.kwargs.get("inplace") is True or (name.endswith("_") and not name.endswith("__")):
        changed = node.args[0]
    else:
        return None
    return changed if isinstance(changed, fx.Node) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_identity(node: fx.Node, owner: nn.Module) -> bool:
    module = called_module(node, owner)
    return type(module) is nn.Identity and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether anybody watches the calls of a module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _activation(node: fx.Node, owner: nn.Module) -> str | None:
    """Name of the activation that a node is; None if it is none, or none that a layer can apply."""
    if len(node.args) != 1:
        return None
    options: dict[str, Any] = dict(node.kwargs)
    module = called_module(node, owner)
    if module is not None:
        name = None if "forward" in vars(module) else _MODULES.get(type(module))
        options |= {key: value for key, value in vars(module).items() if key in _OPTIONS}
    elif node.op == "call_function":
        name = _FUNCTIONS.get(node.target)
    else:
        name = _METHODS.get(str(node.target)) if node.op == "call_method" else None
    known = all(value in _OPTIONS.get(key, ()) for key, value in options.items())
    return name if known else None


def _is_fresh(node: fx.Node) -> bool:
    """Whether a value is made here and used once, so that nobody sees it change."""
    return node.op not in ("placeholder", "get_attr") and len(node.users) == 1


def _may_write(node: fx.Node, owner: nn.Module) -> bool:
    called = called_module(node, owner)
    if called is None:
        return changes(node) is not None
    return any(getattr(module, "inplace", False) for module in called.modules())
