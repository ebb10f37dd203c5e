"""Which batch norm goes into which neighbour, decided on the data flow."""

import dataclasses
from collections.abc import Mapping

from torch import fx, nn

from batchnorm.surgery.axes import Axis
from batchnorm.surgery.call_sites import CallSites
from batchnorm.surgery.constants import TENSORS, Constants, constants_of, is_norm
from batchnorm.surgery.dataflow import Flow
from batchnorm.surgery.folding import Weighted, channels_of, is_output_axis, takes_shift
from batchnorm.surgery.methods import names_in_forward
from batchnorm.surgery.neighbours import CannotFoldError, Neighbours, is_only_input

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
        self.near = Neighbours(flow)

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
            except CannotFoldError as reason:
                reasons.append(str(reason))
            else:
                if constants.is_all() and not any(map(_residual_of, self.near.calls(norm))):
                    self.near.pass_through(norm)
                return found
        return Match(name, constants, why="; ".join(dict.fromkeys(reasons)))

    def _before(self, norm: nn.Module, name: str, constants: Constants) -> Match:
        sources = [self.near.source(call) for call in self.near.calls(norm)]
        layers = {
            self.flow.names[layer]: layer for layer in (self.near.layer(s.node, "follows") for s in sources)
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
            raise CannotFoldError(f"its channels are not those of {', '.join(layers)}")
        moves = {move for source in sources for move in source.moves}
        guard = dims if moves else _guard(constants, dims)
        for layer_name, layer in layers.items():
            for call in self.near.calls(layer):
                for value, user in self.near.consumers(call, moves):
                    if self.flow.modules.get(user) is not norm or not is_only_input(value, user):
                        raise CannotFoldError(f"{layer_name} also feeds {self.near.describe(user)}")
        return Match(name, constants, before=tuple(layers), dims=guard)

    def _after(self, norm: nn.Module, name: str, constants: Constants) -> Match:
        layers: dict[str, Weighted] = {}
        for call in self.near.calls(norm):
            if not constants.is_all() or _residual_of(call) is not None:
                raise CannotFoldError("adds, activates or averages before what follows")
            for _, user in self.near.consumers(call):
                layer = self.near.layer(user, "feeds")
                self.near.expect_nothing_between(call, user)
                layers[self.flow.names[layer]] = layer
        for layer_name, layer in layers.items():
            for call in self.near.calls(layer):
                source = self.near.source(call)
                if source.moves or self.flow.modules.get(source.node) is not norm:
                    raise CannotFoldError(f"{layer_name} has other inputs too")
            if not takes_shift(layer) and constants.shift.any():
                raise CannotFoldError(f"the zeros that {layer_name} pads would need the shift")
        dims = next(
            (
                dims
                for dims in self._possible_dims(name, constants)
                if layers and all(is_output_axis(layer, _axis(constants, dims)) for layer in layers.values())
            ),
            None,
        )
        if dims is None or any(channels_of(layer)[0] != len(constants.scale) for layer in layers.values()):
            raise CannotFoldError(f"its channels are not those of {', '.join(layers) or 'what follows'}")
        return Match(name, constants, after=tuple(layers), dims=_guard(constants, dims))

    def _possible_dims(self, name: str, constants: Constants) -> tuple[int, ...]:
        """The ranks of input that the batch norm may be made for."""
        if name in self.ranks:
            return tuple(self.ranks[name]) if len(self.ranks[name]) == 1 else ()
        return (2, 3, 4, 5) if constants.dims is None else (constants.dims,)


_KNOWN = {"input", "residual"}


def _axis(constants: Constants, dims: int) -> Axis:
    """The axis that a batch norm normalizes, of an input of so many dimensions."""
    return constants.channel_dim % dims, dims


def _guard(constants: Constants, dims: int) -> int | None:
    """The rank to insist on: not if the layer did, nor if the last axis meets the last of a Linear."""
    return None if constants.dims == dims or constants.channel_dim == -1 else dims


def _residual_of(call: fx.Node) -> object:
    return call.args[1] if len(call.args) > 1 else call.kwargs.get("residual")
