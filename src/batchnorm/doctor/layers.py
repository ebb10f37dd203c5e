"""Batch-norm layers of a model or a checkpoint, whatever class they are: the one place that knows.

Known are torch's layers, ours and SyncBatchNorm; *frozen* are the fixed layers of torchvision, detectron2
and timm; *foreign* is everything else that holds ``running_mean`` and ``running_var``.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.doctor.layer import OURS, Layer, TorchBatchNorm, keeps, learns
from batchnorm.nn.statistics import Rows, Synced

__all__ = ["layers_of_checkpoint", "layers_of_model"]

FORWARDS = {TorchBatchNorm.forward, nn.SyncBatchNorm.forward, *(layer.forward for layer in OURS)}


def layers_of_model(model: nn.Module) -> tuple[Layer, ...]:
    """The batch-norm layers of a model in the order of its definition, those in TorchScript left out."""
    return tuple(_layers(model))


def _layers(model: nn.Module) -> Iterator[Layer]:
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind is None or any(is_lazy(p) for p in module.parameters(recurse=False)):
            continue
        tensors = {
            key: value.detach()
            for key in ("running_mean", "running_var", "weight", "bias", "num_batches_tracked")
            if isinstance(value := getattr(module, key, None), Tensor)
        }
        if keeps(module, Rows):
            tensors = _rows(tensors)
        momentum = getattr(module, "momentum", math.nan)
        yield Layer(
            name,
            kind,
            module,
            tensors.get("running_mean"),
            tensors.get("running_var"),
            tensors.get("weight"),
            tensors.get("bias"),
            tensors.get("num_batches_tracked"),
            float(getattr(module, "eps", 1e-5)),
            momentum if momentum is None else float(momentum),
            bool(getattr(module, "track_running_stats", kind != "frozen")),
            learns(module),
        )


def _rows(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Statistics of all domains or steps, one after the other."""
    number = len(tensors["running_mean"])
    counter = tensors.pop("num_batches_tracked", None)
    flat = {
        key: value.flatten() if key.startswith("running") else value.repeat(number)
        for key, value in tensors.items()
    }
    return flat if counter is None else {**flat, "num_batches_tracked": counter.sum()}


def _kind(module: nn.Module) -> str | None:
    # What is compiled by TorchScript shows neither its calls nor its arithmetic.
    if isinstance(module, nn.modules.instancenorm._InstanceNorm | torch.jit.ScriptModule):
        return None
    if isinstance(module, TorchBatchNorm):
        if type(module).forward not in FORWARDS:
            return "foreign"
        return "sync" if keeps(module, Synced) or isinstance(module, nn.SyncBatchNorm) else "batch"
    own = {**module._buffers, **module._parameters}
    if own.get("running_mean") is None or own.get("running_var") is None:
        return None
    # The fixed layers of other libraries hold weight and bias as buffers, so that nothing trains them.
    fixed = isinstance(own.get("weight"), Tensor) and module._buffers.get("weight") is not None
    return "frozen" if fixed and "Frozen" in type(module).__name__ else "foreign"


def layers_of_checkpoint(state: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """The layers that a state dict holds, told by ``running_mean`` and ``running_var``.

    Example:
        >>> [layer.name for layer in layers_of_checkpoint(nn.Sequential(nn.BatchNorm1d(2)).state_dict())]
        ['0']
    """
    names = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    return tuple(
        Layer(
            prefix.removesuffix("."),
            "checkpoint",
            None,
            state[f"{prefix}running_mean"],
            state.get(f"{prefix}running_var"),
            state.get(f"{prefix}weight"),
            state.get(f"{prefix}bias"),
            state.get(f"{prefix}num_batches_tracked"),
            None,
            math.nan,
            True,
            False,
        )
        for prefix in names
    )
