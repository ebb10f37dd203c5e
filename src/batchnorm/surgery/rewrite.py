"""A module runs other code, and is otherwise the module it was.

Its class becomes a subclass, of the same name, whose ``forward`` is written from a graph. So attributes,
hooks, names and whoever holds the module are not touched, ``isinstance`` holds, and tracing the module
again finds the new code. Copies and pickles carry the source of the code.
"""

import dataclasses
import importlib
import inspect
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from batchnorm.surgery.call_sites import called_module
from batchnorm.surgery.graph_functions import in_one_dtype
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.modules import OF_EVERY_MODULE
from batchnorm.surgery.pairs import Pair, addend, changes

__all__ = ["Rewritten", "fused_class"]


@dataclasses.dataclass(frozen=True)
class _Code:
    """Source of a ``forward``, and what its global names mean."""

    source: str
    values: Mapping[str, Any]
    modules: Mapping[str, str]

    @classmethod
    def of(cls, graph: fx.Graph) -> "_Code":
        code = graph.python_code("self")
        modules = {key: value.__name__ for key, value in code.globals.items() if inspect.ismodule(value)}
        values = {key: value for key, value in code.globals.items() if key not in modules}
        return cls(code.src, values, modules)

    def forward(self) -> Any:
        names = dict(self.values)
        names |= {key: importlib.import_module(name) for key, name in self.modules.items()}
        exec(compile(self.source, "<batchnorm: fused forward>", "exec"), names)
        return names["forward"]


class Rewritten:
    """What the classes of rewritten modules add to those they had."""

    _home: type[nn.Module]
    _code: _Code

    def __init_subclass__(cls) -> None:
        """Do not tell the module's own class, which may keep a list of its subclasses."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what the new code would not see: attributes were read when it was traced."""
        known = vars(self)
        if name in known and name not in OF_EVERY_MODULE and known[name] is not value:
            raise RuntimeError(
                f"convert: {name} of {type(self).__name__} expected {known[name]!r} as when it was fused, "
                f"got {value!r}; revert first"
            )
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _new, (self._home, self._code), self.__getstate__()


def fused_class(
    module: nn.Module, graph: fx.Graph, pairs: Iterable[Pair], carriers: Iterable[fx.Node]
) -> type[nn.Module]:
    """The class of a module in whose code each pair is one call of the batch-norm layer.

    Where the layer is called by a module that is called, the residual goes through that as two more
    arguments, ``bn_residual`` and ``bn_into`` (see `in_one_dtype`).

    Args:
        module: Whose code it is.
        graph: Of the code; changed.
        pairs: In the graph.
        carriers: Calls of batch norm, or of modules on the way to it, that hand on a residual given to
            this module.
    """
    for pair in pairs:
        norm = pair.norm
        if pair.add is not None:
            value = pair.identities[-1] if pair.identities else norm
            residual = addend(pair.add, value)
            written = changes(pair.add)
            into = None if written is None else "residual" if written is residual else "output"
            with graph.inserting_before(pair.act):
                norm = graph.node_copy(norm, lambda node: node)
                _hand_over(norm, module, residual, into)
        else:
            norm = pair.identities[-1] if pair.identities else norm
        pair.act.replace_all_uses_with(norm)
        graph.erase_node(pair.act)
        if pair.add is not None:
            for node in (pair.add, *reversed(pair.identities), pair.norm):
                graph.erase_node(node)
    carriers = list(carriers)
    if carriers:
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        with graph.inserting_after(last):
            into_node = graph.placeholder("bn_into", default_value=None)
            residual_node = graph.placeholder("bn_residual", default_value=None)
        for node in carriers:
            _hand_over(node, module, residual_node, into_node)
    cls = type(module)
    return _subclass(cls._home if issubclass(cls, Rewritten) else cls, _Code.of(graph))


def _hand_over(call: fx.Node, module: nn.Module, residual: Any, into: Any) -> None:
    """Give a residual to a call of batch norm, or of a module that hands it on."""
    graph = call.graph
    if isinstance(called_module(call, module), BatchNorm):
        with graph.inserting_before(call):
            both = graph.call_function(in_one_dtype, (call.args[0], residual, into))
            call.args = tuple(graph.call_function(operator.getitem, (both, place)) for place in (0, 1))
    else:
        call.kwargs = {**call.kwargs, "bn_residual": residual, "bn_into": into}


def _subclass(home: type[nn.Module], code: _Code) -> type[nn.Module]:
    inherited = {name: getattr(home, name) for name in ("__module__", "__qualname__", "__doc__")}
    members = {**inherited, "forward": code.forward(), "_home": home, "_code": code}
    metaclass: Any = type(home)
    cls: type[nn.Module] = metaclass(home.__name__, (Rewritten, home), members)
    return cls


def _new(home: type[nn.Module], code: _Code) -> nn.Module:
    cls = _subclass(home, code)
    return cls.__new__(cls)
