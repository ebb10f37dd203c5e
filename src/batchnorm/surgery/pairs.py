"""Batch norm and the activation that alone uses its output, perhaps with an addition between, in a graph."""

import dataclasses
import itertools
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from batchnorm.surgery.call_sites import called_module
from batchnorm.surgery.graph_functions import in_place
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.own_code import own_code

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
        what = _described(user, owner)
        return "no activation follows" if what is None else f"{what} follows, which no layer can apply"
    act = _only_user(user)
    if act is None:
        return f"its sum with another has {len(user.users)} uses"
    name = _activation(act, owner)
    if name is None:
        what = _described(act, owner)
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
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
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
    if module is not None and type(module) not in _MODULES:
        return None if options else _own_activation(module)
    if module is not None:
        name = None if "forward" in vars(module) else _MODULES[type(module)]
        options |= {key: value for key, value in vars(module).items() if key in _OPTIONS}
    elif node.op == "call_function":
        name = _FUNCTIONS.get(node.target)
    else:
        name = _METHODS.get(str(node.target)) if node.op == "call_method" else None
    known = all(value in _OPTIONS.get(key, ()) for key, value in options.items())
    return name if known else None


def _own_activation(module: nn.Module) -> str | None:
    """Name of the activation that is all that a module of a class of its own does."""
    parts = list(module.modules())
    tensors = itertools.chain(module.parameters(), module.buffers())
    if any(map(has_hooks, parts[1:])) or next(tensors, None) is not None or _has_more(module):
        return None
    code = own_code(module)
    if isinstance(code, str) or not code.plain or code.graph is None or len(code.graph.nodes) != 3:
        return None
    given, call, returned = code.graph.nodes
    only = given.op == "placeholder" and call.args == (given,) and returned.args == (call,)
    return _activation(call, module) if only and not given.target.startswith("*") else None


def _has_more(module: nn.Module) -> bool:
    """Whether others may use more of a module than its call, or it is none that Python runs."""
    if isinstance(module, fx.GraphModule | torch.jit.ScriptModule):
        return True
    own = itertools.takewhile(lambda cls: cls is not nn.Module, type(module).__mro__)
    defined = {name for cls in own for name, value in vars(cls).items() if callable(value)}
    return any(not name.startswith("_") for name in defined - {"forward", "extra_repr"})


def _described(node: fx.Node, owner: nn.Module) -> str | None:
    """What a node does that is no activation of a layer, and no addition; None for what it is not to name."""
    module = called_module(node, owner)
    if module is not None:
        return repr(module) if type(module) in _MODULES else type(module).__name__
    if node.op not in ("call_function", "call_method") or node.target is in_place:
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.strip("_") in ("add", "iadd"):
        return None
    return f"{name} with other options" if name in {*_FUNCTIONS.values(), *_METHODS} else name or None


def _is_fresh(node: fx.Node) -> bool:
    """Whether a value is made here and used once, so that nobody sees it change."""
    return node.op not in ("placeholder", "get_attr") and len(node.users) == 1


def _may_write(node: fx.Node, owner: nn.Module) -> bool:
    called = called_module(node, owner)
    if called is None:
        return changes(node) is not None
    return any(getattr(module, "inplace", False) for module in called.modules())
