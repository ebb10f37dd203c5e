"""Which batch-norm layers can apply what follows them, how, and why the others cannot."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from batchnorm.surgery.call_sites import CallSites, Site, called_module, holding_names
from batchnorm.surgery.exchange import ORIGIN, Layer, become
from batchnorm.surgery.methods import methods_using, names_in_forward, uses
from batchnorm.surgery.pairs import Pair, find_pair, has_hooks
from batchnorm.surgery.rewrite import fused_class

__all__ = ["Absorbed", "Fusion", "is_used_bare", "plan_fusions"]

NO_EXAMPLE = "takes other code, and so an example"


class Absorbed(nn.Module):
    """In the place of an activation or pooling that the batch norm before it does: returns its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input."""
        return input

    def extra_repr(self) -> str:
        """Name what stood here."""
        return str(vars(self)[ORIGIN].__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Fusion:
    """Layers that are fused together or not at all, since they share activations, poolings or code.

    Attributes:
        layers: By name.
        options: What each layer will do, as arguments of its constructor, by the same names.
        words: The same in words, with the addition.
        absorbed: Activations or poolings that give way.
        classes: The classes that modules get, to run other code.
    """

    layers: Mapping[str, Layer]
    options: Mapping[str, Mapping[str, Any]]
    words: Mapping[str, str]
    absorbed: Iterable[nn.Module]
    classes: Mapping[nn.Module, type[nn.Module]]

    def modules(self) -> list[nn.Module]:
        """All that `apply` changes."""
        return [*self.layers.values(), *self.absorbed, *self.classes]

    def apply(self) -> None:
        """Do it."""
        for name, layer in self.layers.items():
            become(layer, type(layer), **self.options[name])
        for module in self.absorbed:
            vars(module)[ORIGIN] = type(module)
            module.__class__ = Absorbed
        for module, cls in self.classes.items():
            module.__class__ = cls


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
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

    def rewritten(self) -> Iterator[Site]:
        """Where other code is needed, if the activation does not give way."""
        yield self.site
        if self.pair.add is not None:
            yield from self.way


def plan_fusions(
    model: nn.Module, layers: Mapping[str, Layer], rewrite: bool
) -> tuple[list[Fusion], dict[str, str]]:
    """Plan what can be fused.

    Args:
        model: Any network; not changed.
        layers: Ours, by name.
        rewrite: Whether modules may get other code.

    Returns:
        The fusions, which do not depend on each other, and why the other layers are left, by name.
    """
    sites = CallSites(model)
    places: dict[str, list[_Place]] = {}
    left: dict[str, str] = {}
    claimed: set[fx.Node] = set()
    for name, layer in layers.items():
        found: list[_Place] | str
        if layer.activation is not None:
            found = "has an activation already"
        elif layer.avg_pool != 1:
            found = "averages over windows before what follows"
        else:
            found = _places(layer, sites)
        if isinstance(found, str):
            left[name] = found
        elif any(place.pair.act in claimed for place in found):
            left[name] = "what follows goes into another layer"
        else:
            places[name] = found
            claimed |= {place.pair.act for place in found}
    while True:
        absorbed = _absorbed(places, sites)
        refused: dict[str, str] = {}
        for name, found in places.items():
            for place in found:
                if place.pair.act in absorbed:
                    reasons = [_other_use(place, sites)]
                else:
                    reasons = [_refusal(site) for site in place.rewritten()] if rewrite else [NO_EXAMPLE]
                for reason in reasons:
                    if reason is not None:
                        refused[name] = reason
        # What is refused calls its activation as before, so that may no longer give way for others.
        left |= refused
        places = {name: found for name, found in places.items() if name not in refused}
        if not refused:
            return [_fusion(group, layers, absorbed) for group in _groups(places, absorbed)], left


def _places(layer: nn.Module, sites: CallSites) -> list[_Place] | str:
    """All pairs that begin with a layer, or a module that returns its output; why none, if none."""
    if has_hooks(layer):
        return f"{type(layer).__name__} has hooks, which would see another output"
    calls = sites.of(layer)
    if isinstance(calls, str):
        return calls
    places = []
    for site in calls:
        pair = find_pair(site.node, site.owner)
        if isinstance(pair, str):
            return pair
        if pair is None:
            outer = _places(site.owner, sites)
            if isinstance(outer, str):
                return f"its output leaves {type(site.owner).__name__}: {outer}"
            places += [dataclasses.replace(place, way=(*place.way, site)) for place in outer]
            continue
        act = called_module(pair.act, site.owner)
        if act is not None and has_hooks(act):
            return "its activation has hooks, which would see another input"
        places.append(_Place(pair, site, act))
    if len({place.pair.activation for place in places}) > 1:
        return "is called at several places with different activations"
    return places


def _refusal(site: Site) -> str | None:
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


def _other_use(place: _Place, sites: CallSites) -> str | None:
    """Which method would see that the layer activates, or that a module which returns its output does."""
    for site in (place.site, *place.way):
        called = called_module(site.node, site.owner)
        assert called is not None
        for holder in sites.holders(called):
            acts = holding_names(holder, place.act) if place.act is not None and site is place.site else set()
            for method, function in methods_using(holder, holding_names(holder, called)):
                # one that forward calls, and that activates as well, is where the pair stands
                if not (method in names_in_forward(holder) and uses(function, acts)):
                    return f"{type(holder).__name__} uses it in {method} too"
    return None


def _absorbed(places: Mapping[str, list[_Place]], sites: CallSites) -> dict[fx.Node, nn.Module]:
    """Calls of activations that can return their input, since all calls of the same module would be fused."""
    bare = {place.pair.act for found in places.values() for place in found if place.pair.add is None}
    before: dict[nn.Module | None, list[nn.Module | None]] = defaultdict(list)
    for place in itertools.chain.from_iterable(places.values()):
        before[place.act].append(called_module(place.site.node, place.site.owner))
    absorbed = {}
    for place in itertools.chain.from_iterable(places.values()):
        calls = "a function" if place.act is None else sites.of(place.act)
        if place.act is None or isinstance(calls, str) or any(call.node not in bare for call in calls):
            continue
        if not is_used_bare(place.act, before[place.act], sites):
            absorbed[place.pair.act] = place.act
    return absorbed


def is_used_bare(module: nn.Module, beside: Iterable[nn.Module | None], sites: CallSites) -> bool:
    """Whether a method uses a module without any of those beside it in ``forward``."""
    for holder in sites.holders(module):
        others = {name for other in beside if other is not None for name in holding_names(holder, other)}
        for method, function in methods_using(holder, holding_names(holder, module)):
            if not (method in names_in_forward(holder) and uses(function, others)):
                return True
    return False


def _groups(
    places: Mapping[str, list[_Place]], absorbed: Mapping[fx.Node, nn.Module]
) -> list[dict[str, list[_Place]]]:
    """Split into groups that share neither activations nor code."""
    groups: list[tuple[set[nn.Module], dict[str, list[_Place]]]] = []
    for name, found in places.items():
        changed, members = {module for place in found for module in _changed(place, absorbed)}, {name: found}
        apart = []
        for group in groups:
            if group[0] & changed:
                changed, members = group[0] | changed, group[1] | members
            else:
                apart.append(group)
        groups = [*apart, (changed, members)]
    return [members for _, members in groups]


def _changed(place: _Place, absorbed: Mapping[fx.Node, nn.Module]) -> list[nn.Module]:
    act = absorbed.get(place.pair.act)
    return [site.owner for site in place.rewritten()] if act is None else [act]


def _fusion(
    group: Mapping[str, list[_Place]], layers: Mapping[str, Layer], absorbed: Mapping[fx.Node, nn.Module]
) -> Fusion:
    places = [place for found in group.values() for place in found]
    graphs = {
        site.owner: site.code.graph
        for place in places
        for site in place.rewritten()
        if site.code.graph is not None
    }
    pairs: dict[nn.Module, list[Pair]] = {}
    carriers: dict[nn.Module, dict[fx.Node, None]] = {}
    for place in places:
        if place.pair.act not in absorbed:
            pairs.setdefault(place.site.owner, []).append(place.pair)
            for site in place.way if place.pair.add is not None else ():
                carriers.setdefault(site.owner, {})[site.node] = None
    activations = {name: found[0].pair.activation for name, found in group.items()}
    return Fusion(
        {name: layers[name] for name in group},
        {name: {"activation": activation} for name, activation in activations.items()},
        {
            name: f"add, {activations[name]}" if any(place.pair.add for place in found) else activations[name]
            for name, found in group.items()
        },
        dict.fromkeys(absorbed[place.pair.act] for place in places if place.pair.act in absorbed),
        {
            owner: fused_class(owner, graphs[owner], pairs.get(owner, ()), carriers.get(owner, ()))
            for owner in pairs.keys() | carriers.keys()
        },
    )
