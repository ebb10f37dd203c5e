"""A folded batch norm's constants put into its neighbours, and what remains of it into its place."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from batchnorm.surgery.folding import Weighted, fold_after, fold_before
from batchnorm.surgery.matching import Match
from batchnorm.surgery.remains import Folded, ScaleShift
from batchnorm.surgery.snapshot import Snapshot

__all__ = ["apply_match"]


@torch.no_grad()
def apply_match(found: Match, modules: Mapping[str, nn.Module], undo: contextlib.ExitStack) -> None:
    """Do what was found, in place.

    Args:
        found: What becomes of a batch norm.
        modules: Of the network, by name.
        undo: Gets what takes it back.

    Raises:
        ValueError: If folded weights do not fit into the layer's dtype.
    """
    norm, constants = modules[found.norm], found.constants
    for names, arithmetic in ((found.before, fold_before), (found.after, fold_after)):
        for name in names:
            layer = modules[name]
            assert isinstance(layer, Weighted)
            _put(layer, name, arithmetic(layer, constants), undo)
    remains: nn.Module
    if found.why:
        weight, bias = (
            values.to(next(_values(norm)).device, constants.dtype)
            for values in (constants.scale, constants.shift)
        )
        remains = ScaleShift(weight, bias, constants.activation, constants.avg_pool, constants.channel_dim)
        remains.requires_grad_(constants.requires_grad)
    elif constants.fused or found.dims is not None:
        remains = Folded(constants.activation, constants.avg_pool, found.dims)
    else:
        remains = nn.Identity()
    for name in _OPTIONS & vars(norm).keys():  # code around it may ask, for num_features above all
        setattr(remains, name, vars(norm)[name])
    _become(norm, remains.train(norm.training), undo)


_OPTIONS = {"num_features", "eps", "momentum", "affine", "track_running_stats"}


def _values(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _put(layer: Weighted, name: str, values: tuple[Tensor, Tensor], undo: contextlib.ExitStack) -> None:
    """Give a layer new parameters of the dtype, device and memory format of its weight."""
    old = layer.weight
    undo.callback(layer._parameters.update, dict(layer._parameters))
    for key, value in zip(("weight", "bias"), values, strict=True):
        new = torch.empty_like(old) if key == "weight" else old.new_empty(value.shape)
        if not torch.isfinite(new.copy_(value)).all() and torch.isfinite(old).all():
            raise ValueError(
                f"fold: {name}.{key} expected numbers that fit into {old.dtype}, got too large ones"
            )
        layer._parameters[key] = nn.Parameter(new, old.requires_grad)


def _become(module: nn.Module, other: nn.Module, undo: contextlib.ExitStack) -> None:
    """Make a module another in place: it may be referred to from lists and attributes we do not see."""
    undo.callback(Snapshot([module]).restore)
    object.__setattr__(module, "__class__", type(other))
    vars(module).clear()
    vars(module).update(vars(other))
