"""What the normalization layers look like between two epochs."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from batchnorm.models import norm_sites
from batchnorm.records import QUANTILE_LEVELS, LayerRecord
from batchnorm.surgery import LayerStatistics, swapped_statistics

__all__ = ["observe_layers"]


@torch.no_grad()
def observe_layers(
    model: nn.Module,
    images: Tensor,
    population: Mapping[str, LayerStatistics],
    arm: str,
    seed: int,
    epoch: int,
) -> list[LayerRecord]:
    """Record the input of every normalization place, and the layer's state where there is one.

    The inputs are those of prediction with population statistics, so that they show the weights and
    not the lag of the running statistics.

    Args:
        model: Any; its mode and its statistics are restored.
        images: Probe batch ``(N, 1, 28, 28)``.
        population: Population statistics by module name, where there are any.
        arm: For the record.
        seed: For the record.
        epoch: For the record.
    """
    inputs: dict[str, tuple[float, ...]] = {}
    sites = norm_sites(model)
    with _prediction(model), swapped_statistics(model, population), contextlib.ExitStack() as stack:
        for name, site in sites.items():

            def keep(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                inputs[name] = _quantiles(args[0])

            stack.callback(site.register_forward_pre_hook(keep).remove)
        model(images)
    records = []
    for name, site in sites.items():
        layer = _batch_norm_of(name, site)
        if layer is None:
            records.append(LayerRecord(arm, seed, epoch, name, inputs[name]))
            continue
        path, module = layer
        measured = population.get(path)  # None for a frozen layer
        records.append(
            LayerRecord(
                arm,
                seed,
                epoch,
                name,
                inputs[name],
                running_mean=_floats(module.running_mean),
                running_var=_floats(module.running_var),
                population_mean=_floats(measured.mean if measured else None),
                population_var=_floats(measured.var if measured else None),
                weight=_floats(module.weight),
                bias=_floats(module.bias),
            )
        )
    return records


@contextlib.contextmanager
def _prediction(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _batch_norm_of(name: str, site: nn.Module) -> tuple[str, nn.modules.batchnorm._BatchNorm] | None:
    for path, module in site.named_modules(prefix=name):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return path, module
    return None


def _quantiles(values: Tensor) -> tuple[float, ...]:
    # by sorting: torch.quantile refuses more than 2^24 values
    ordered = values.detach().float().flatten().sort().values
    places = [round(level * (len(ordered) - 1)) for level in QUANTILE_LEVELS]
    return tuple(ordered[places].tolist())


def _floats(values: Tensor | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.detach().float().tolist())
