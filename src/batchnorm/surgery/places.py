"""Where in whose code a batch-norm layer meets an activation, and who would see that it does both."""

import dataclasses
from collections.abc import Iterable

from torch import fx, nn

from batchnorm.surgery.call_sites import CallSites, Site, called_module, holding_names
from batchnorm.surgery.methods import methods_using, names_in_forward, uses
from batchnorm.surgery.modules import has_hooks
from batchnorm.surgery.pairs import Pair, find_pair

__all__ = ["Place", "bare_use", "other_use", "places_of", "refusal"]


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A pair in the code that it stands in.

    Attributes:
        pair: Begins with a call of the layer, or of a module that returns the layer's output.
        site: That call.
        act: The activation, if it is a module.
        way: The calls from that module down to the layer.
    """

    pair: Pair
    site: Site
    act: nn.Module | None
    way: tuple[Site, ...] = ()

    def calls(self) -> tuple[Site, ...]:
        """From the pair down to the layer."""
        return (self.site, *self.way)

    def rewritten(self) -> tuple[Site, ...]:
        """Where other code is needed, if the activation does not give way."""
        return (self.site,) if self.pair.add is None else self.calls()


def places_of(layer: nn.Module, sites: CallSites) -> list[Place] | str:
    """All pairs that begin with a layer, or a module that returns its output; why none, if none."""
    if has_hooks(layer):
        return f"{type(layer).__name__} has hooks, which would see another output"
    calls = sites.of(layer)
    if isinstance(calls, str):
        return calls
    places = []
    for site in calls:
        pair = find_pair(site.node, site.owner, sites)
        if isinstance(pair, str):
            return pair
        if pair is None:
            outer = places_of(site.owner, sites)
            if isinstance(outer, str):
                return f"its output leaves {type(site.owner).__name__}: {outer}"
            places += [dataclasses.replace(place, way=(*place.way, site)) for place in outer]
            continue
        act = called_module(pair.act, site.owner)
        if act is not None and has_hooks(act):
            return "its activation has hooks, which would see another input"
        places.append(Place(pair, site, act))
    if len({place.pair.activation for place in places}) > 1:
        return "is called at several places with different activations"
    return places


def refusal(site: Site) -> str | None:
    """Why the module that makes a call cannot run other code, if it cannot."""
    name, attribute = type(site.owner).__name__, str(site.node.target).split(".")[0]
    if site.code.graph is None:
        return f"{name} {site.code.why}"
    if not site.code.plain:
        return f"{name} runs in its own mode of autograd or autocast"
    if isinstance(site.owner, fx.GraphModule):
        return f"{name} writes its code itself"
    if any(str(node.target).startswith("*") for node in site.code.graph.nodes if node.op == "placeholder"):
        return f"{name} takes any number of arguments"
    return next(
        (f"{name} uses it in {method} too" for method, _ in methods_using(site.owner, [attribute])), None
    )


def other_use(place: Place, sites: CallSites) -> str | None:
    """Which method would see that the layer activates, or that a module which returns its output does."""
    act = [] if place.act is None else [place.act]
    uses_of = (bare_use(site.called, act if site is place.site else [], sites) for site in place.calls())
    return next((use for use in uses_of if use is not None), None)


def bare_use(module: nn.Module, beside: Iterable[nn.Module], sites: CallSites) -> str | None:
    """In words, which method uses a module otherwise than ``forward``; None if none does.

    One that ``forward`` calls, and that uses any of the modules beside it as well, is where it is used.
    """
    beside = list(beside)
    for holder in sites.holders(module):
        others = {name for other in beside for name in holding_names(holder, other)}
        for method, function in methods_using(holder, holding_names(holder, module)):
            if not (method in names_in_forward(holder) and uses(function, others)):
                return f"{type(holder).__name__} uses it in {method} too"
    return None
