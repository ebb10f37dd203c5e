"""Which batch-norm layers of a model get new statistics, and why the others do not."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.nn.statistics import Frozen, Statistics

__all__ = ["BatchNorm", "Choice", "choose_layers", "expect_initialized", "is_scripted_norm"]

BatchNorm = nn.modules.batchnorm._BatchNorm

NO_STATISTICS = "keeps no running statistics"
FROZEN = "frozen: in prediction mode while the model trains"
FROZEN_KIND = "frozen: its kind of statistics is Frozen"
ROWS = "has statistics for each domain or step"
NOT_NAMED = "not named"
SCRIPTED = "scripted"


@dataclasses.dataclass(frozen=True)
class Choice:
    """Batch-norm layers of a model by name, sorted into two heaps.

    Attributes:
        layers: To be given new statistics, in the order of the model's definition.
        untouched: The others, with the reason.
    """

    layers: Mapping[str, BatchNorm]
    untouched: Mapping[str, str]

    def left_alone(self, measured: Collection[str]) -> dict[str, str]:
        """The layers that got no new statistics, with the reason, when those ``measured`` got some."""
        unreached = {name: "not reached by the data" for name in self.layers if name not in measured}
        return {**self.untouched, **unreached}


def expect_initialized(op: str, model: nn.Module) -> None:
    """Refuse what is no module, or has tensors without values; ``op`` asks, for the error."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model expected a torch.nn.Module, got {type(model).__name__}")
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(value):
            raise ValueError(f"{op}: model expected initialized parameters, got lazy {name}")
        if value.is_meta:
            raise ValueError(f"{op}: model expected tensors with values, got {name} on device meta")


def is_scripted_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that runs as TorchScript, where nobody can watch or change it."""
    return isinstance(module, torch.jit.ScriptModule) and isinstance(
        getattr(module, "running_mean", None), Tensor
    )


def choose_layers(model: nn.Module, names: Iterable[str] | None = None) -> Choice:
    """Choose layers for new population statistics.

    Left alone are layers that keep no running statistics (``track_running_stats`` off), layers that
    are not named, and frozen ones: those in prediction mode while the model as a whole is in training
    mode, and those with `Frozen` statistics. A layer whose parameters need no gradient still follows its
    input, so it is not frozen. Naming a frozen layer chooses it all the same. Layers with statistics for each
    domain or step cannot be chosen: nobody says which domain the data are of. Nor can scripted ones.

    Args:
        model: Any; subclasses of torch's batch norm are found, SyncBatchNorm and ours too.
        names: Layers, or modules all of whose layers are meant; None for all layers.

    Raises:
        TypeError: If the model is no module.
        ValueError: If a name is unknown or chooses no layer with running statistics, or if the model
            has tensors without values.
    """
    expect_initialized("recalibrate", model)
    if names is not None and not isinstance(names, Iterable):
        raise ValueError(f"recalibrate: layers expected names, got {names!r}")
    named = None if names is None else [names] if isinstance(names, str) else list(names)
    layers: dict[str, BatchNorm] = {}
    untouched: dict[str, str] = {}
    for name, module in model.named_modules():
        if is_scripted_norm(module):
            untouched[name] = SCRIPTED
        if not isinstance(module, BatchNorm):
            continue
        if not module.track_running_stats or module.running_mean is None or module.running_var is None:
            untouched[name] = NO_STATISTICS
        elif module.running_mean.dim() > 1:
            untouched[name] = ROWS
        elif named is not None:
            if any(_holds(chosen, name) for chosen in named):
                layers[name] = module
            else:
                untouched[name] = NOT_NAMED
        elif model.training and not module.training:
            untouched[name] = FROZEN
        elif isinstance(stats := getattr(module, "stats", None), Statistics) and stats.find(Frozen):
            untouched[name] = FROZEN_KIND
        else:
            layers[name] = module
    for chosen in named or ():
        if not any(_holds(chosen, name) for name in layers):
            raise ValueError(
                "recalibrate: layers expected names of batch-norm layers that keep running statistics or of "
                f"modules with such layers, got {chosen!r}"
            )
    return Choice(layers, untouched)


def _holds(module: str, layer: str) -> bool:
    return layer == module or layer.startswith(f"{module}.")
