"""Which activation a step in a module's code is, of those that a batch-norm layer can apply."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from batchnorm.surgery.call_sites import CallSites, called_module, called_name
from batchnorm.surgery.graph_functions import in_place
from batchnorm.surgery.modules import has_hooks
from batchnorm.surgery.remains import ACTIVATION_MODULES

__all__ = ["activation_of", "in_words"]

_MODULES = {kind: name for name, kind in ACTIVATION_MODULES.items()}
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
# What an activation may be given beside its input and still be the one that a layer can apply.
_OPTIONS = {"inplace": (True, False), "negative_slope": (0.01,), "approximate": ("none",)}


def activation_of(node: fx.Node, owner: nn.Module, sites: CallSites) -> str | None:
    """Name of the activation that a node is; None if it is none, or none that a layer can apply.

    Args:
        node: In the graph of ``owner``.
        owner: The module whose code this is.
        sites: Of a network, which has the code of its modules.
    """
    if len(node.args) != 1:
        return None
    options: dict[str, Any] = dict(node.kwargs)
    module = called_module(node, owner)
    if module is not None and type(module) not in _MODULES:
        return None if options else _own_activation(module, sites)
    if module is not None:
        name = None if "forward" in vars(module) else _MODULES[type(module)]
        options |= {key: value for key, value in vars(module).items() if key in _OPTIONS}
    elif node.op == "call_function":
        name = _FUNCTIONS.get(node.target)
    else:
        name = _METHODS.get(str(node.target)) if node.op == "call_method" else None
    known = all(value in _OPTIONS.get(key, ()) for key, value in options.items())
    return name if known else None


def _own_activation(module: nn.Module, sites: CallSites) -> str | None:
    """Name of the activation that is all that a module of a class of its own does."""
    parts = list(module.modules())
    tensors = itertools.chain(module.parameters(), module.buffers())
    if any(map(has_hooks, parts[1:])) or next(tensors, None) is not None or _has_more(module):
        return None
    code = sites.code_of(module)
    if isinstance(code, str) or not code.plain or code.graph is None or len(code.graph.nodes) != 3:
        return None
    given, call, returned = code.graph.nodes
    only = given.op == "placeholder" and call.args == (given,) and returned.args == (call,)
    return activation_of(call, module, sites) if only and not given.target.startswith("*") else None


def _has_more(module: nn.Module) -> bool:
    """Whether others may use more of a module than its call, or it is none that Python runs."""
    if isinstance(module, fx.GraphModule | torch.jit.ScriptModule):
        return True
    own = itertools.takewhile(lambda cls: cls is not nn.Module, type(module).__mro__)
    defined = {name for cls in own for name, value in vars(cls).items() if callable(value)}
    return any(not name.startswith("_") for name in defined - {"forward", "extra_repr"})


def in_words(node: fx.Node, owner: nn.Module) -> str | None:
    """What a node does that is no activation of a layer, and no addition; None for what it is not to name."""
    module = called_module(node, owner)
    if module is not None:
        return repr(module) if type(module) in _MODULES else type(module).__name__
    if node.op not in ("call_function", "call_method") or node.target is in_place:
        return None
    name = called_name(node)
    if name.strip("_") in ("add", "iadd"):
        return None
    return f"{name} with other options" if name in {*_FUNCTIONS.values(), *_METHODS} else name or None
