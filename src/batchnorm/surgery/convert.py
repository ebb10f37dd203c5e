"""A network's batch-norm layers become ours, and what they were again."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

from batchnorm.nn.statistics import Batch, Statistics, Synced
from batchnorm.records.record import Record
from batchnorm.surgery.exchange import ORIGIN, Layer, back, become, home_class, is_ours, our_class
from batchnorm.surgery.fuse import fuse as fuse_layers
from batchnorm.surgery.fuse import unfuse
from batchnorm.surgery.layers import SCRIPTED, BatchNorm, is_scripted_norm
from batchnorm.surgery.snapshot import Snapshot

__all__ = ["ConversionReport", "convert", "revert"]

Model = TypeVar("Model", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class ConversionReport(Record):
    """What `convert` or `revert` did to a model.

    Attributes:
        converted: Names of the layers whose class changed, in the order of the model's definition.
        fused: What was put into a layer, by its name: ``relu``, ``add, relu``, ``sigmoid, avg_pool 2``; in
            `revert` the activation and the pooling that were taken out again.
        left: Why a layer was not converted or, after ``not fused:``, not fused; by its name.
    """

    converted: tuple[str, ...]
    fused: Mapping[str, str]
    left: Mapping[str, str]


def convert(
    model: Model, stats: Statistics | None = None, fuse: bool = False, example: Any = None
) -> tuple[Model, ConversionReport]:
    """Make the batch-norm layers of a network ours, in place.

    The module objects stay and change their class, so parameters, hooks, flags, optimizers and shared
    layers are not touched. Buffers stay the same objects too, unless they are of a half type (ours are
    float32) or the statistics need another shape (every row starts as a copy).

    Left alone and reported: subclasses that define anything but a constructor, parametrized layers, lazy
    layers without parameters yet, scripted layers, and ours where there is nothing to do.
    `torch.nn.SyncBatchNorm` becomes ours with ``Synced(group)`` statistics, unless ``stats`` says otherwise.

    Args:
        model: Any network, in any mode, on any device. Convert before wrapping it in DDP.
        stats: For all layers; None for `Batch()`, and for what our own layers have.
        fuse: Also let a layer apply the activation, and the addition before it, that alone uses its output:
            ``relu``, ``leaky_relu`` (0.01), ``relu6``, ``sigmoid``, ``tanh``, ``silu``, ``gelu`` (exact),
            ``hardswish``; and the `torch.nn.AvgPool2d` after it, if windows lie side by side without padding.
        example: What to verify fusions on: a tensor, a tuple of arguments, or a mapping of keyword arguments.
            Outputs must be equal to the bit in both modes; buffers and random state are as before.
            Without it, only activations and poolings that are modules are fused, on the evidence of the
            traced code; additions and functions need the network's code replaced, not done unverified.

    Returns:
        ``model`` itself, and what was done.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If ``stats`` is no kind of statistics.
        Exception: Whatever the model raises on ``example``; the model is then as before.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> net, report = convert(net, fuse=True)
        >>> net[1].activation
        'relu'
        >>> report
        ConversionReport(converted=('1',), fused={'1': 'relu'}, left={})
        >>> net, report = revert(net)
        >>> net[2]
        ReLU()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model expected a torch.nn.Module, got {type(model).__name__}")
    if stats is not None and not isinstance(stats, Statistics):
        raise ValueError(f"convert: stats expected a kind of batchnorm.stats, got {stats!r}")
    before = Snapshot(model.modules())
    converted: list[str] = []
    fused: dict[str, str] = {}
    left = {name: SCRIPTED for name, module in model.named_modules() if is_scripted_norm(module)}
    try:
        for name, layer in _layers(model):
            reason = _convert_layer(layer, stats)
            if reason is None:
                converted.append(name)
            else:
                left[name] = reason
        if fuse:
            fused, unfused = _fuse_layers(model, converted, example)
            left = {name: reason for name, reason in left.items() if name not in fused}
            left |= {name: f"not fused: {reason}" for name, reason in unfused.items()}
        for name in converted:
            ours = model.get_submodule(name)
            assert is_ours(ours)
            ours.label = name  # errors name it
    except BaseException:
        before.restore()
        raise
    return model, ConversionReport(tuple(converted), fused, left)


def revert(model: Model) -> tuple[Model, ConversionReport]:
    """Undo `convert`, in place: the very classes, attributes and ``state_dict`` of before.

    Parameters and statistics keep today's values. If no layer was converted, layers that are ours from
    the start become ``torch.nn``'s. Statistics kept in several rows (per domain, per time step) become one
    row: the common one, else those of the mixture of all rows, and the largest ``num_batches_tracked``.

    Args:
        model: Any network.

    Returns:
        ``model`` itself, and what was done; ``left`` holds layers of ours that torch has no class for.

    Raises:
        TypeError: If ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"revert: model expected a torch.nn.Module, got {type(model).__name__}")
    layers = list(_layers(model))
    undo = any(ORIGIN in vars(layer) for _, layer in layers)
    converted: list[str] = []
    fused: dict[str, str] = {}
    left: dict[str, str] = {}
    unfuse(model)
    for name, layer in layers:
        if undo and ORIGIN not in vars(layer):
            if is_ours(layer):
                left[name] = "was ours before: revert again to make it torch's"
        elif not isinstance(layer, Layer):
            if isinstance(layer, nn.SyncBatchNorm):
                left[name] = "is torch's already, and does not tell its rank"
        elif home_class(layer) is None:
            left[name] = f"is of a class of its own: {type(layer).__name__}"
        elif not undo and layer.activation is not None:
            left[name] = f"has an activation, {layer.activation}, which torch's layer has not"
        elif not undo and layer.avg_pool != 1:
            left[name] = f"has an avg_pool, {layer.avg_pool}, which torch's layer has not"
        else:
            if undo and (words := _fused_into(layer)):
                fused[name] = words
            back(layer)
            converted.append(name)
    return model, ConversionReport(tuple(converted), fused, left)


def _fused_into(layer: Layer) -> str:
    """What a layer has got from `convert`, in words but for additions."""
    was = vars(layer)[ORIGIN].attributes
    words = [str(layer.activation)] if layer.activation != was.get("activation") else []
    words += [f"avg_pool {layer.avg_pool}"] if layer.avg_pool != was.get("avg_pool", 1) else []
    return ", ".join(words)


def _layers(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Batch-norm layers by name, a shared one once."""
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            yield name, module


def _convert_layer(layer: BatchNorm, stats: Statistics | None) -> str | None:
    """Convert; return why not, if not."""
    cls = our_class(layer)
    if isinstance(cls, str):
        return cls
    if is_ours(layer) and stats is None:
        return "is ours already"
    if isinstance(layer, nn.SyncBatchNorm) and stats is None:
        stats = Synced(layer.process_group)
    try:
        become(layer, cls, stats=stats)
    except ValueError as error:
        return str(error)
    return None


def _fuse_layers(
    model: nn.Module, converted: Collection[str], example: Any
) -> tuple[dict[str, str], dict[str, str]]:
    """Fuse; return what was fused and why the rest was not, by name.

    Where the statistics come from does not matter for what follows the layer. So layers are tried with
    those of the batch, which need neither other processes nor a second forward.
    """
    layers = {name: layer for name, layer in _layers(model) if is_ours(layer)}
    kinds = {name: layers[name].stats for name in converted}
    for name in converted:
        become(layers[name], type(layers[name]), stats=Batch())
    plain = {name: layer for name, layer in layers.items() if layer.stats == Batch()}
    fused, left = fuse_layers(model, plain, example)
    for name, stats in kinds.items():
        become(layers[name], type(layers[name]), stats=stats)
    others = {
        name: f"has statistics of its own, {layers[name].stats}" for name in layers.keys() - plain.keys()
    }
    return fused, left | others
