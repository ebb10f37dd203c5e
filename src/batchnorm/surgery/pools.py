"""Which batch-norm layers can average over windows what an average pooling alone takes of them."""

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn

from batchnorm.surgery.call_sites import CallSites, Site, called_module
from batchnorm.surgery.exchange import Layer
from batchnorm.surgery.fusion import Absorbed, Fusion
from batchnorm.surgery.modules import has_hooks
from batchnorm.surgery.places import bare_use

__all__ = ["plan_pools"]


def plan_pools(model: nn.Module, layers: Mapping[str, Layer]) -> list[Fusion]:
    """Plan what can be averaged, after activations were fused.

    Only poolings that are modules give way, for which no code changes, and all calls of one do or none.

    Args:
        model: Any network; not changed.
        layers: Ours, by name.

    Returns:
        The fusions, which do not depend on each other.
    """
    pools = {module: size for module in model.modules() if (size := _size(module)) > 1}
    if not pools:
        return []
    sites = CallSites(model)
    names = {layer: name for name, layer in layers.items() if _may_average(layer)}
    fusions = []
    for pool, size in pools.items():
        found = _layers_before(pool, sites)
        if found and found <= names.keys():
            group = {name: layer for layer, name in names.items() if layer in found}
            options = {name: {"avg_pool": size} for name in group}
            words = dict.fromkeys(group, f"avg_pool {size}")
            fusions.append(Fusion(group, options, words, [pool], {}))
    return fusions


def _size(module: nn.Module) -> int:
    """Size of the windows of a pooling that a layer can do, else 1."""
    if type(module) is not nn.AvgPool2d or has_hooks(module) or "forward" in vars(module):
        return 1
    sizes = {*_sizes(module.kernel_size), *_sizes(module.stride)}
    plain = not any(_sizes(module.padding)) and not module.ceil_mode and module.divisor_override is None
    return sizes.pop() if plain and len(sizes) == 1 else 1


def _sizes(given: Any) -> list[int]:
    """Along both axes: an integer of any type, or a sequence of one or two; 0 for what is neither."""
    try:
        return list(map(operator.index, given if isinstance(given, Sequence) else [given]))
    except TypeError:
        return [0]


def _may_average(layer: Layer) -> bool:
    return isinstance(layer, nn.BatchNorm2d) and layer.channel_dim == 1 and layer.avg_pool == 1


def _layers_before(pool: nn.Module, sites: CallSites) -> set[nn.Module]:
    """The layers whose output only a pooling takes, which takes nothing else; else empty."""
    found = Counter(map(_layer_before, _calls(pool, sites)))
    layers = {layer for layer in found if layer is not None}
    alone = (
        len(layers) == len(found)
        and all(len(_calls(layer, sites)) == times for layer, times in found.items() if layer is not None)
        and bare_use(pool, layers, sites) is None
        and all(bare_use(layer, [pool], sites) is None for layer in layers)
    )
    return layers if alone else set()


def _calls(module: nn.Module, sites: CallSites) -> list[Site]:
    """All calls of a module; none where they are not known, or run in a mode of autograd of their own."""
    calls = sites.of(module)
    return [] if isinstance(calls, str) or not all(call.code.plain for call in calls) else calls


def _layer_before(site: Site) -> nn.Module | None:
    """The module whose output a pooling is given through what hands it on, alone."""
    for value in _ways_back(site.node):
        module = called_module(value, site.owner)
        if module is None or len(value.users) != 1 or has_hooks(module):
            return None
        if not isinstance(module, Absorbed | nn.Identity):
            return module
    return None


def _ways_back(node: fx.Node) -> Iterator[fx.Node]:
    while len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        yield node
