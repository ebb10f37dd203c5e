"""What a module's own ``forward`` does, seen as a graph in which every module that it calls is one node."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from batchnorm.surgery.answering import Answering, Proxy, one_at_a_time, traced
from batchnorm.surgery.graph_functions import in_one_dtype, in_place
from batchnorm.surgery.ways import Way, ways_through

__all__ = ["OwnCode", "own_code"]


@dataclasses.dataclass(frozen=True, eq=False)
class OwnCode:
    """One module's own code.

    Attributes:
        graphs: Of its ``forward``, one for each way through it (see `ways`); the same in both modes.
        graph: The only one, if it does all that the module's code does, whatever it is given.
        plain: Whether all of it runs in the surrounding modes of autograd and autocast, tried with each on
            and off. A graph does not show the contexts and decorators that change them.
        why: There is no such graph.
    """

    graphs: Sequence[fx.Graph]
    graph: fx.Graph | None
    plain: bool
    why: str = ""


_Container = list[Any] | dict[Any, Any] | set[Any]


class _Proxy(Proxy):
    """Notes ``+=`` as what it is; fx itself takes it for ``+``, and would not see that a tensor changes."""


def _noted(name: str) -> Callable[[fx.Proxy, object], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", in_place, (name, self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _noted(_name))


class _Tracer(Answering):
    """Looks into no module but the root."""

    def __init__(self, modes: set[Any], answers: Sequence[bool] = ()) -> None:
        super().__init__(answers, autowrap_functions=(in_one_dtype,))
        self.modes = modes

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        self.modes.add(_modes())
        return super().create_node(*args, **kwargs)


def _modes() -> tuple[object, ...]:
    autocast = [
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")
    ]
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


def own_code(module: nn.Module) -> OwnCode | str:
    """Trace a module's ``forward``; why it cannot be known, if it cannot.

    It cannot where the number of its steps depends on data or arguments, where the code depends on the mode,
    or where it changes attributes of the module. The module is as before.

    Args:
        module: Any.
    """
    name = type(module).__name__
    if "forward" in vars(module):
        return f"{name} has a forward of its own"
    held, mode = _Held(module), module.training
    codes = []
    try:
        for training in (False, True):
            module.training = training
            with one_at_a_time(), contextlib.ExitStack() as modes:
                modes.enter_context(torch.set_grad_enabled(training))
                for device in ("cpu", "cuda"):
                    modes.enter_context(torch.autocast(device, enabled=training))
                code = _traced(module, modes)
            module.training = mode
            if held.changed():
                return f"{name} changes its attributes when it runs"
            codes.append(code)
    except Exception as error:  # whatever foreign code raises when it is given no tensors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{name} cannot be traced: {reason}"
    finally:
        module.training = mode
        held.restore()
    predict, train = codes
    if [*map(str, predict.graphs)] != [*map(str, train.graphs)]:
        return f"{name} runs other code in training"
    return train


def _traced(module: nn.Module, noted: contextlib.ExitStack) -> OwnCode:
    """The code of a module in the mode that it is in."""
    seen = {_modes()}

    def attempt(
        given: Mapping[str, object], answers: Sequence[bool]
    ) -> tuple[Answering, fx.Graph | Exception]:
        return traced(lambda: _Tracer(seen, answers), module, given, noted)

    ways = list(ways_through(module, attempt, may_refuse=True))
    if not ways:
        raise TraceError("it ends in an error whatever it is given")
    tracer, anything = attempt({}, ())
    if tracer.undecorated:
        return OwnCode([way.graph for way in ways], None, False, "is wrapped by a decorator")
    if isinstance(anything, fx.Graph) and not tracer.answers and all(_is_case(way, anything) for way in ways):
        return OwnCode([anything], anything, len(seen) == 1)
    why = "goes different ways by its arguments or values"
    return OwnCode([way.graph for way in ways], None, len(seen) == 1, why)


def _is_case(way: Way, anything: fx.Graph) -> bool:
    """Whether a way is what a graph does where some of its arguments are fixed."""
    values: dict[fx.Node, Any] = {}
    if way.answers or len(way.graph.nodes) != len(anything.nodes):
        return False
    for node, other in zip(anything.nodes, way.graph.nodes, strict=True):
        there = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        here = (other.args, other.kwargs)
        if node.op != other.op or node.target != other.target or there != here:
            return False
        fixed = node.op == "placeholder" and node.target in way.given
        values[node] = way.given[str(node.target)] if fixed else other
    return True


class _Held:
    """Attributes of a module and what lists, dicts and sets in them hold: a forward may add to it."""

    def __init__(self, module: nn.Module) -> None:
        self._items: dict[int, tuple[_Container, list[Any]]] = {}
        waiting: list[Any] = [vars(module)]
        while waiting:
            container = waiting.pop()
            if isinstance(container, list | dict | set) and id(container) not in self._items:
                items = _items(container)
                self._items[id(container)] = container, items
                waiting += container.values() if isinstance(container, dict) else items

    def changed(self) -> bool:
        """Whether anything has come, gone or been exchanged."""
        return any(_identities(_items(now)) != _identities(items) for now, items in self._items.values())

    def restore(self) -> None:
        """Put it all back."""
        for container, items in self._items.values():
            if _identities(_items(container)) != _identities(items):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(items)


def _items(container: _Container) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _identities(items: list[Any]) -> list[Any]:
    return [tuple(map(id, item)) if isinstance(item, tuple) else id(item) for item in items]
