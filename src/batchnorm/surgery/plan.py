"""Which batch-norm layers can apply what follows them, how, and why the others cannot."""

import itertools
from collections import defaultdict
from collections.abc import Mapping

from torch import fx, nn

from batchnorm.surgery.call_sites import CallSites
from batchnorm.surgery.exchange import Layer
from batchnorm.surgery.fusion import Fusion
from batchnorm.surgery.pairs import Pair
from batchnorm.surgery.places import Place, bare_use, other_use, places_of, refusal
from batchnorm.surgery.rewrite import fused_class

__all__ = ["plan_fusions"]

NO_EXAMPLE = "takes other code, and so an example"


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
    places: dict[str, list[Place]] = {}
    left: dict[str, str] = {}
    claimed: set[fx.Node] = set()
    for name, layer in layers.items():
        found: list[Place] | str
        if layer.activation is not None:
            found = "has an activation already"
        elif layer.avg_pool != 1:
            found = "averages over windows before what follows"
        else:
            found = places_of(layer, sites)
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
                    reasons = [other_use(place, sites)]
                else:
                    reasons = [refusal(site) for site in place.rewritten()] if rewrite else [NO_EXAMPLE]
                for reason in reasons:
                    if reason is not None:
                        refused[name] = reason
        # What is refused calls its activation as before, so that may no longer give way for others.
        left |= refused
        places = {name: found for name, found in places.items() if name not in refused}
        if not refused:
            return [_fusion(group, layers, absorbed) for group in _groups(places, absorbed)], left


def _absorbed(places: Mapping[str, list[Place]], sites: CallSites) -> dict[fx.Node, nn.Module]:
    """Calls of activations that can return their input, since all calls of the same module would be fused."""
    alone: dict[nn.Module, dict[fx.Node, nn.Module]] = defaultdict(dict)
    for place in itertools.chain.from_iterable(places.values()):
        if place.act is not None and place.pair.add is None:
            alone[place.act][place.pair.act] = place.site.called
    absorbed: dict[fx.Node, nn.Module] = {}
    for act, before in alone.items():
        calls = sites.of(act)
        if isinstance(calls, str) or any(call.node not in before for call in calls):
            continue
        if bare_use(act, before.values(), sites) is None:
            absorbed |= dict.fromkeys(before, act)
    return absorbed


def _groups(
    places: Mapping[str, list[Place]], absorbed: Mapping[fx.Node, nn.Module]
) -> list[dict[str, list[Place]]]:
    """Split into groups that share neither activations nor code."""
    groups: list[tuple[set[nn.Module], dict[str, list[Place]]]] = []
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


def _changed(place: Place, absorbed: Mapping[fx.Node, nn.Module]) -> list[nn.Module]:
    act = absorbed.get(place.pair.act)
    return [site.owner for site in place.rewritten()] if act is None else [act]


def _fusion(
    group: Mapping[str, list[Place]], layers: Mapping[str, Layer], absorbed: Mapping[fx.Node, nn.Module]
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
