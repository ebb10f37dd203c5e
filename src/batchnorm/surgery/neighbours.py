"""What comes before and after a layer in a network's data flow, perhaps through what hands it on."""

import dataclasses
from collections import Counter
from collections.abc import Container, Iterator

import torch.nn.functional as F
from torch import fx, nn

from batchnorm.surgery.axes import Axis, before_move, is_move
from batchnorm.surgery.dataflow import Flow, data_users, input_of, only_asks
from batchnorm.surgery.folding import Weighted, is_output_axis, is_plain, why_not
from batchnorm.surgery.modules import has_hooks, runs_forward_of

__all__ = ["CannotFoldError", "Neighbours", "Source", "is_only_input"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A computed value and the moves of its axes before its use, the last one first."""

    node: fx.Node
    moves: tuple[fx.Node, ...]

    def channels_reach(self, layer: nn.Module, used: Axis) -> bool:
        """Whether an axis of what is used has the channels that the layer computed."""
        axis: Axis | None = used
        for move in self.moves:
            axis = None if axis is None else before_move(move, axis)
        return axis is not None and isinstance(layer, Weighted) and is_output_axis(layer, axis)


class CannotFoldError(Exception):
    """Why a batch norm cannot go where it was tried."""


class Neighbours:
    """Looks through a flow, past moves of axes and modules that return what they are given.

    Args:
        flow: Of a network in prediction mode.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._owners = Counter(id(p) for m in flow.names for p in m._parameters.values() if p is not None)
        self._passing = {module for module in flow.names if _hands_on(module) and not has_hooks(module)}

    def pass_through(self, module: nn.Module) -> None:
        """Take a module for one that returns what it is given, as a batch norm does once it is folded."""
        self._passing.add(module)

    def calls(self, module: nn.Module) -> Iterator[fx.Node]:
        """The calls of a module.

        Raises:
            CannotFoldError: If some of them cannot be traced.
        """
        for call in self._flow.calls[module]:
            if call is None:
                name = self._flow.names[module]
                raise CannotFoldError(f"{name or 'it'} is called from where the flow cannot be traced")
            yield call

    def source(self, call: fx.Node) -> Source:
        """Where what a call is given was computed.

        Raises:
            CannotFoldError: If that is no step.
        """
        given, moves = input_of(call), []
        while isinstance(given, fx.Node):
            if is_move(given):
                moves.append(given)
            elif not self._passes(given):
                return Source(given, tuple(moves))
            given = input_of(given)
        raise CannotFoldError("is not given a tensor")

    def consumers(self, call: fx.Node, moves: Container[fx.Node] = ()) -> Iterator[tuple[fx.Node, fx.Node]]:
        """The uses of what a call computes: the value, perhaps passed on, and its user."""
        for user in data_users(call):
            if user in moves or self._passes(user):
                yield from self.consumers(user, moves)
            else:
                yield call, user

    def _passes(self, node: fx.Node) -> bool:
        """Whether a call returns what it is given first, in prediction."""
        return self._flow.modules.get(node) in self._passing or _is_idle_dropout(node)

    def layer(self, node: fx.Node, verb: str) -> Weighted:
        """The layer that a node calls, if it can take a batch norm in.

        Raises:
            CannotFoldError: If it cannot; what it does to the batch norm, the ``verb`` says.
        """
        layer = self._flow.modules.get(node)
        if layer is None or not is_plain(layer):
            raise CannotFoldError(f"{verb} {self.describe(node)}")
        reason = why_not(layer)
        if reason is None and self._owners[id(layer.weight)] > 1:
            reason = "shares its weight with another layer"
        if reason is None and any(id(parameter) in self._flow.read for parameter in layer.parameters()):
            reason = "has parameters that are used elsewhere"
        if reason is not None:
            raise CannotFoldError(f"{verb} {self._flow.names[layer]}, which {reason}")
        return layer

    def describe(self, node: fx.Node) -> str:
        """In words, what a node is."""
        if node in self._flow.modules:
            module = self._flow.modules[node]
            return f"{self._flow.names[module]} ({type(module).__name__})"
        return {"placeholder": "an input", "output": "an output"}.get(node.op, node.name)

    def expect_nothing_between(self, norm: fx.Node, user: fx.Node) -> None:
        """Refuse code between a batch norm and its user, which might change in place what goes in.

        Folded, the batch norm hands on its very input.

        Raises:
            CannotFoldError: If there is any.
        """
        node = norm.next
        while node is not user:
            module = self._flow.modules.get(node)
            harmless = self._passes(node) or (module is not None and is_plain(module))
            if not (harmless or node.op == "get_attr" or only_asks(node)):
                raise CannotFoldError(f"feeds {self.describe(user)} only after {self.describe(node)}")
            node = node.next


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_FUNCTIONS = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout
)  # fmt: skip


def _hands_on(module: nn.Module) -> bool:
    """Whether a module returns its input, as it is set: dropout may be kept in training mode on purpose."""
    return runs_forward_of(module, nn.Identity) or (
        runs_forward_of(module, *_DROPOUTS) and not module.training
    )


def _is_idle_dropout(node: fx.Node) -> bool:
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training")
    return node.target in _DROPOUT_FUNCTIONS and training is False


def is_only_input(value: fx.Node, user: fx.Node) -> bool:
    """Whether a call is given a value first and nowhere else."""
    others: list[fx.Node] = []
    fx.map_arg((user.args[1:], {k: v for k, v in user.kwargs.items() if k != "input"}), others.append)
    return input_of(user) is value and value not in others
