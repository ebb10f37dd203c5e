"""The trial of C09: what every layer is given, looked at again and again while LeNet trains."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.models import norm_sites
from batchnorm.study.images import batch_stream, fixed_batches
from batchnorm.study.networks import lenet
from batchnorm.study.training import Loop, recalibrated_accuracy
from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.population import population_statistics

__all__ = ["LEVELS", "watch_layers"]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
LAYERS = {"norm1": "conv2", "norm2": "dense1", "norm3": "dense2", "norm4": "output"}


def watch_layers(
    *,
    seed: int,
    data: str,
    norm: str,
    activation: str,
    lr: float,
    batch_size: int,
    images: int,
    steps: int,
    looks: int,
    test_images: int,
) -> dict[str, Any]:
    """Train LeNet and look at the inputs of its layers on the same images, ``looks`` times.

    Returns:
        ``accuracy``; the ``steps`` of the looks; and for each layer behind a normalization place its
        ``quantiles`` at `LEVELS` and its ``drift``: from one look to the next, the mean over channels of the
        change of mean and of deviation, over the mean deviation over channels.
    """
    model = lenet(norm, seed, activation=activation)
    loop = Loop(model, batch_stream(data, images, batch_size, seed), steps, lr=lr)
    probe = fixed_batches(data, 500)[0][0]
    sample = fixed_batches(data, min(images, 1000), training=True)
    seen = [_look(model, probe, sample)]
    at = [0]
    for _ in range(looks):
        loop.run(steps // looks)
        at.append(loop.done)
        seen.append(_look(model, probe, sample))
    return {
        "accuracy": recalibrated_accuracy(model, sample, fixed_batches(data, test_images)),
        "steps": at,
        "layers": {
            layer: {
                "quantiles": [_quantiles(look[place]) for look in seen],
                "drift": [
                    _distance(before[place], after[place]) for before, after in itertools.pairwise(seen)
                ],
            }
            for place, layer in LAYERS.items()
        },
    }


@torch.no_grad()
def _look(model: nn.Module, probe: Tensor, sample: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Outputs of the places, which the next layers are given, in prediction mode: (values, channels)."""
    outputs: dict[str, Tensor] = {}
    hooks = []
    for name, place in norm_sites(model).items():

        def keep(_: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
            outputs[name] = output.movedim(1, -1).flatten(0, -2)

        hooks.append(place.register_forward_hook(keep))
    population = population_statistics(model, sample, method="onepass", allow_small_batches=True)
    was_training = model.training
    model.eval()
    with swapped_statistics(model, population):
        model(probe)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return outputs


def _distance(before: Tensor, after: Tensor) -> float:
    moved = (after.mean(0) - before.mean(0)).abs() + (after.std(0) - before.std(0)).abs()
    return (moved.mean() / before.std(0).mean().clamp_min(1e-12)).item()


def _quantiles(values: Tensor) -> list[float]:
    ordered = values.flatten().sort().values
    return [ordered[round(level * (len(ordered) - 1))].item() for level in LEVELS]
