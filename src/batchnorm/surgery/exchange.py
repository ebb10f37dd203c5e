"""A torch layer becomes ours and ours torch's: the object stays, its class changes.

Since the object is the same, so are its parameters, buffers, hooks (and their handles), flags and whoever
else holds it: optimizers, shared uses, lists that are not modules. Only what our class adds comes and goes.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.batch_norm import _Layer as Layer
from batchnorm.nn.statistics import Synced
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.mixture import mixture

__all__ = ["ORIGIN", "BatchNormNd", "Layer", "Origin", "back", "become", "home_class", "is_ours", "our_class"]

ORIGIN = "_converted_from"
GROUP = "process_group"
HALF = (torch.float16, torch.bfloat16)


class BatchNormNd(Layer):
    """Ours for any rank, in the place of SyncBatchNorm, which does not tell what rank it is given."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


OURS = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.SyncBatchNorm: BatchNormNd,
}

# What a subclass may define and still be torch's layer in all that it does.
_NAMES_AND_CONSTRUCTOR = {
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__doc__",
    "__firstlineno__",
    "__init__",
    "__module__",
    "__parameters__",
    "__qualname__",
    "__static_attributes__",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a layer was before.

    Attributes:
        cls: Its class.
        rows: Its running statistics were ``(*rows, C)``.
        dtype: Of its running statistics, if it had some.
        attributes: Its own under names that our class uses.
        thawed: Parameters that `Frozen` statistics took the gradient from.
        synced: The process group of SyncBatchNorm; unlike the bare group it can be copied.
    """

    cls: type[BatchNorm]
    rows: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thawed: tuple[str, ...] = ()
    synced: Synced | None = None


def is_ours(module: nn.Module) -> TypeGuard[Layer]:
    """Whether it is exactly one of our layers, no subclass."""
    return type(module) in OURS.values()


def our_class(layer: BatchNorm) -> type[Layer] | str:
    """Which of our classes does all that the layer does; else, in words, why none."""
    cls = type(layer)
    if is_ours(layer):
        return type(layer)
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "has no parameters yet: run the model once"
    if parametrize.is_parametrized(layer):
        return "is parametrized"
    replaced = sorted(name for name in vars(layer) if callable(getattr(cls, name, None)))
    if replaced:
        return f"has a {replaced[0]} of its own"
    defined: dict[str, type] = {}
    for base in cls.__mro__:
        if base in OURS.values():
            break
        if base in OURS:
            if defined:
                name = next(name for name in ("forward", *sorted(defined)) if name in defined)
                return f"is of a class of its own: {defined[name].__name__} defines {name}"
            return OURS[base]
        defined |= {name: base for name in vars(base) if name not in _NAMES_AND_CONSTRUCTOR}
    return f"is of a class of its own: {cls.__name__}"


def home_class(layer: BatchNorm) -> type[BatchNorm] | None:
    """The class that `back` will give to one of our layers; None if torch has no such class."""
    if ORIGIN in vars(layer):
        origin: Origin = vars(layer)[ORIGIN]
        return origin.cls
    return next(
        (theirs for theirs, ours in OURS.items() if type(layer) is ours and ours is not BatchNormNd), None
    )


def become(layer: BatchNorm, cls: type[Layer], **options: Any) -> None:
    """Make a layer of torch's ours, or change options of one of ours.

    Args:
        layer: Changed.
        cls: From `our_class`.
        options: Keyword-only arguments of the constructor. Those that are not given stay as they are.

    Raises:
        ValueError: As the constructor; nothing is changed then.
    """
    like = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
    if is_ours(layer):
        options = {name: getattr(layer, name) for name in _options(cls)} | options
    fresh = cls(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        None if like is None else like.device,
        None if like is None else like.dtype,
        bias=layer.bias is not None,
        **options,
    )
    names = _attributes(cls)
    if ORIGIN not in vars(layer):
        mean = layer.running_mean
        vars(layer)[ORIGIN] = Origin(
            type(layer),
            () if mean is None else tuple(mean.shape[:-1]),
            None if mean is None else mean.dtype,
            {name: vars(layer)[name] for name in names if name in vars(layer)},
            synced=Synced(vars(layer).pop(GROUP)) if GROUP in vars(layer) else None,
        )
    layer.__class__ = cls
    vars(layer).update({name: vars(fresh)[name] for name in names})
    _thaw(layer)
    frozen = [name for name, value in fresh.named_parameters() if not value.requires_grad]
    taken = tuple(name for name in frozen if getattr(layer, name).requires_grad)
    for name in taken:
        getattr(layer, name).requires_grad_(False)
    vars(layer)[ORIGIN] = dataclasses.replace(vars(layer)[ORIGIN], thawed=taken)
    mean = layer.running_mean
    if mean is not None and fresh.running_mean is not None:
        _fit_statistics(
            layer, tuple(fresh.running_mean.shape[:-1]), torch.float32 if mean.dtype in HALF else mean.dtype
        )


def back(layer: BatchNorm) -> None:
    """Make one of our layers what it was, or torch's layer if it was ours from the start.

    Statistics kept in several rows become one row: that which all rows hold, else those of the mixture
    of the rows, and the largest count.

    Args:
        layer: Changed; one with a `home_class`.
    """
    home = home_class(layer)
    assert home is not None
    _thaw(layer)
    origin: Origin = vars(layer).pop(ORIGIN, Origin(home))
    for name in _attributes(type(layer)) - origin.attributes.keys():
        del vars(layer)[name]
    vars(layer).update(origin.attributes)
    if origin.synced is not None:
        vars(layer)[GROUP] = origin.synced.group
    layer.__class__ = origin.cls
    mean = layer.running_mean
    if mean is not None:
        # torch's layer holds its statistics in the dtype of its parameters, where that is a half type
        theirs = origin.dtype if layer.weight is None else layer.weight.dtype
        half = theirs in HALF and not is_ours(layer)
        _fit_statistics(layer, origin.rows, theirs if half else mean.dtype)


def _options(cls: type[Layer]) -> list[str]:
    """Names of the constructor's keyword-only arguments but ``bias``; each is an attribute too."""
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "bias"]


def _attributes(cls: type[BatchNorm]) -> frozenset[str]:
    """Names of what a layer of ours holds and torch's does not, buffers apart."""
    return frozenset(vars(cls(1)).keys() - vars(nn.BatchNorm1d(1)).keys())


def _thaw(layer: BatchNorm) -> None:
    """Give parameters back the gradient that a kind of statistics took from them."""
    for name in vars(layer).get(ORIGIN, Origin(type(layer))).thawed:
        getattr(layer, name).requires_grad_(True)


def _fit_statistics(layer: BatchNorm, rows: tuple[int, ...], dtype: torch.dtype) -> None:
    """Give running statistics the shape ``(*rows, C)`` and the dtype; the same objects if they have them."""
    mean, var, counter = layer.running_mean, layer.running_var, layer.num_batches_tracked
    assert mean is not None
    assert var is not None
    if tuple(mean.shape[:-1]) != rows:
        one = mixture(mean.flatten(0, -2), var.flatten(0, -2)) if mean.dim() > 1 else (mean, var)
        mean, var = (values.to(mean).expand(*rows, -1).clone() for values in one)
        if counter is not None:
            layer.num_batches_tracked = counter.max().expand(rows).clone()
    layer.running_mean, layer.running_var = mean.to(dtype), var.to(dtype)
