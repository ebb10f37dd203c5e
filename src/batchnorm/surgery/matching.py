"""Which batch norm goes into which neighbour, decided on the data flow."""

import dataclasses
from collections import Counter
from collections.abc import Container, Iterator, Mapping

import torch.nn.functional as F
from torch import fx, nn

from batchnorm.surgery.axes import Axis, before_move, is_move
from batchnorm.surgery.call_sites import CallSites
from batchnorm.surgery.constants import TENSORS, Constants, constants_of, hooks_of, is_norm, runs_forward_of
from batchnorm.surgery.dataflow import Flow, data_users, input_of, only_asks
from batchnorm.surgery.folding import Weighted, channels_of, is_output_axis, is_plain, takes_shift, why_not
from batchnorm.surgery.methods import names_in_forward

__all__ = ["Match", "Matching", "match"]


@dataclasses.dataclass(frozen=True)
class Match:
    """What becomes of one batch norm.

    Attributes:
        norm: Its name.
        constants: Its scale and shift.
        before: The layers before it that take it in, by name.
        after: The layers after it that take it in.
        dims: Rank of its input that this needs and the layer itself does not ensure; None if any will do.
        why: If it stands alone: why no neighbour can take it in.
    """

    norm: str
    constants: Constants
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    dims: int | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Matching:
    """What becomes of all batch norms: matches, in the order of the model's definition, and kept layers."""

    matches: tuple[Match, ...]
    kept: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Source:
    """A computed value and the moves of its axes before its use, the last one first."""

    node: fx.Node
    moves: tuple[fx.Node, ...]

    def channels_reach(self, layer: nn.Module, used: Axis) -> bool:
        """Whether an axis of what is used has the channels that the layer computed."""
        axis: Axis | None = used
        for move in self.moves:
            axis = None if axis is None else before_move(move, axis)
        return axis is not None and isinstance(layer, Weighted) and is_output_axis(layer, axis)


class _CannotError(Exception):
    """Why a batch norm cannot go where it was tried."""


def match(flow: Flow, ranks: Mapping[str, set[int]]) -> Matching:
    """Decide for every batch norm of a network.

    A layer takes a batch norm in only if all its outputs go to that batch norm and nowhere else, and all
    inputs of the batch norm come from such layers; so one that is shared, or called twice, is folded once
    or not at all. The same holds the other way round for layers after it.

    Args:
        flow: Of the network.
        ranks: By name, the ranks of input that the batch norms were seen to get; those not named are taken
            to get what the layer before them usually gives.

    Raises:
        ValueError: As `constants_of`.
    """
    matcher = _Matcher(flow, ranks)
    matches, kept = [], {}
    for module, name in flow.names.items():
        if is_norm(module):
            outcome = matcher.decide(module, name)
            if isinstance(outcome, Match):
                matches.append(outcome)
            else:
                kept[name] = outcome
    for name in flow.functional:
        kept[name] = "a function, not a layer"
    return Matching(tuple(matches), kept)


class _Matcher:
    def __init__(self, flow: Flow, ranks: Mapping[str, set[int]]) -> None:
        self.flow = flow
        self.ranks = ranks
        self.sites = CallSites(flow.network)
        self.owners = Counter(id(p) for m in flow.names for p in m._parameters.values() if p is not None)
        self.passing = {module for module in flow.names if _hands_on(module) and not any(hooks_of(module))}

    def decide(self, norm: nn.Module, name: str) -> Match | str:
        constants = constants_of(norm, name)
        if isinstance(constants, str):
            return constants
        calls = self.flow.calls.get(norm)
        if not calls:
            return "not called in prediction"
        if any(id(tensor) in self.flow.read for tensor in (*norm.parameters(), *norm.buffers())):
            return "its tensors are used elsewhere"
        for holder in self.sites.holders(norm) if None in calls else ():
            if names_in_forward(holder).intersection(TENSORS):
                return f"{type(holder).__name__}, whose code is not traced, may read its tensors"
        if any(call is not None and (len(call.args) > 2 or set(call.kwargs) - _KNOWN) for call in calls):
            return "called with other arguments than input and residual"
        reasons = []
        for attempt in (self._before, self._after):
            try:
                found = attempt(norm, name, constants)
            except _CannotError as reason:
                reasons.append(str(reason))
            else:
                if constants.is_all() and not any(map(_residual_of, _known(calls))):
                    self.passing.add(norm)
                return found
        return Match(name, constants, why="; ".join(dict.fromkeys(reasons)))

    def _before(self, norm: nn.Module, name: str, constants: Constants) -> Match:
        sources = [self._source(call) for call in self._calls(norm)]
        layers = {
            self.flow.names[layer]: layer for layer in (self._layer(s.node, "follows") for s in sources)
        }
        dims = next(
            (
                dims
                for dims in self._possible_dims(name, constants)
                if all(s.channels_reach(self.flow.modules[s.node], _axis(constants, dims)) for s in sources)
            ),
            None,
        )
        if dims is None or any(channels_of(layer)[1] != len(constants.scale) for layer in layers.values()):
            raise _CannotError(f"its channels are not those of {', '.join(layers)}")
        moves = {move for source in sources for move in source.moves}
        guard = dims if moves else _guard(constants, dims)
        for layer_name, layer in layers.items():
            for call in self._calls(layer):
                for value, user in self._consumers(call, moves):
                    if self.flow.modules.get(user) is not norm or not _is_only_input(value, user):
                        raise _CannotError(f"{layer_name} also feeds {self._describe(user)}")
        return Match(name, constants, before=tuple(layers), dims=guard)

    def _after(self, norm: nn.Module, name: str, constants: Constants) -> Match:
        layers: dict[str, Weighted] = {}
        for call in self._calls(norm):
            if not constants.is_all() or _residual_of(call) is not None:
                raise _CannotError("adds, activates or averages before what follows")
            for value, user in self._consumers(call):
                layer = self._layer(user, "feeds")
                if not _is_only_input(value, user):
                    raise _CannotError(f"feeds {self._describe(user)} twice")
                self._expect_nothing_between(call, user)
                layers[self.flow.names[layer]] = layer
        for layer_name, layer in layers.items():
            for call in self._calls(layer):
                source = self._source(call)
                if source.moves or self.flow.modules.get(source.node) is not norm:
                    raise _CannotError(f"{layer_name} has other inputs too")
            if not takes_shift(layer) and constants.shift.any():
                raise _CannotError(f"the zeros that {layer_name} pads would need the shift")
        dims = next(
            (
                dims
                for dims in self._possible_dims(name, constants)
                if layers and all(is_output_axis(layer, _axis(constants, dims)) for layer in layers.values())
            ),
            None,
        )
        if dims is None or any(channels_of(layer)[0] != len(constants.scale) for layer in layers.values()):
            raise _CannotError(f"its channels are not those of {', '.join(layers) or 'what follows'}")
        return Match(name, constants, after=tuple(layers), dims=_guard(constants, dims))

    def _expect_nothing_between(self, norm: fx.Node, user: fx.Node) -> None:
        """Folded, the batch norm hands on its input, which code that runs in between may change in place."""
        node = norm.next
        while node is not user:
            module = self.flow.modules.get(node)
            harmless = self._passes(node) or (module is not None and is_plain(module))
            if not (harmless or node.op == "get_attr" or only_asks(node)):
                raise _CannotError(f"feeds {self._describe(user)} only after {self._describe(node)}")
            node = node.next

    def _possible_dims(self, name: str, constants: Constants) -> tuple[int, ...]:
        """The ranks of input that the batch norm may be made for."""
        if name in self.ranks:
            return tuple(self.ranks[name]) if len(self.ranks[name]) == 1 else ()
        return (2, 3, 4, 5) if constants.dims is None else (constants.dims,)

    def _calls(self, module: nn.Module) -> Iterator[fx.Node]:
        for call in self.flow.calls[module]:
            if call is None:
                name = self.flow.names[module]
                raise _CannotError(f"{name or 'it'} is called from where the flow cannot be traced")
            yield call

    def _source(self, call: fx.Node) -> "_Source":
        """Where what a call is given was computed."""
        given, moves = input_of(call), []
        while isinstance(given, fx.Node):
            if is_move(given):
                moves.append(given)
            elif not self._passes(given):
                return _Source(given, tuple(moves))
            given = input_of(given)
        raise _CannotError("is not given a tensor")

    def _consumers(self, call: fx.Node, moves: Container[fx.Node] = ()) -> Iterator[tuple[fx.Node, fx.Node]]:
        """The uses of what a call computes: the value, perhaps passed on, and its user."""
        for user in data_users(call):
            if user in moves or self._passes(user):
                yield from self._consumers(user, moves)
            else:
                yield call, user

    def _passes(self, node: fx.Node) -> bool:
        """Whether a call returns what it is given first, in prediction."""
        return self.flow.modules.get(node) in self.passing or _is_idle_dropout(node)

    def _layer(self, node: fx.Node, verb: str) -> Weighted:
        layer = self.flow.modules.get(node)
        if layer is None or not is_plain(layer):
            raise _CannotError(f"{verb} {self._describe(node)}")
        reason = why_not(layer)
        if reason is None and self.owners[id(layer.weight)] > 1:
            reason = "shares its weight with another layer"
        if reason is None and any(id(parameter) in self.flow.read for parameter in layer.parameters()):
            reason = "has parameters that are used elsewhere"
        if reason is not None:
            raise _CannotError(f"{verb} {self.flow.names[layer]}, which {reason}")
        return layer

    def _describe(self, node: fx.Node) -> str:
        if node in self.flow.modules:
            module = self.flow.modules[node]
            return f"{self.flow.names[module]} ({type(module).__name__})"
        return {"placeholder": "an input", "output": "an output"}.get(node.op, node.name)


_KNOWN = {"input", "residual"}


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


def _axis(constants: Constants, dims: int) -> Axis:
    """The axis that a batch norm normalizes, of an input of so many dimensions."""
    return constants.channel_dim % dims, dims


def _guard(constants: Constants, dims: int) -> int | None:
    """The rank to insist on: not if the layer did, nor if the last axis meets the last of a Linear."""
    return None if constants.dims == dims or constants.channel_dim == -1 else dims


def _known(calls: list[fx.Node | None]) -> Iterator[fx.Node]:
    return (call for call in calls if call is not None)


def _residual_of(call: fx.Node) -> object:
    return call.args[1] if len(call.args) > 1 else call.kwargs.get("residual")


def _is_only_input(value: fx.Node, user: fx.Node) -> bool:
    """Whether a call is given a value first and nowhere else."""
    others: list[fx.Node] = []
    fx.map_arg((user.args[1:], {k: v for k, v in user.kwargs.items() if k != "input"}), others.append)
    return input_of(user) is value and value not in others
