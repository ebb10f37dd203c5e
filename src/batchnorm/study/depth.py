"""The trial of C04: a plain or residual network of some depth, watched at its first steps, then trained."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchnorm.models import ResNet, norm_factory, norm_sites
from batchnorm.study.images import batch_stream, fixed_batches
from batchnorm.study.training import Loop, recalibrated_accuracy

__all__ = ["train_deep"]

FIRST_STEPS = 5


def train_deep(
    *,
    seed: int,
    data: str,
    depth: int,
    shortcuts: bool,
    norm: str,
    lr: float,
    batch_size: int,
    images: int,
    pool: int,
    steps: int,
    test_images: int,
) -> dict[str, Any]:
    """Train a network of the ResNet family with SGD and momentum 0.9.

    Args:
        seed: Of weights and order of batches.
        data: Which images.
        depth: Layers with weights, 6n + 2.
        shortcuts: False for the plain network.
        norm: ``none`` or ``batch``.
        lr: Of the first step; it goes to 0 as a cosine.
        batch_size: Images a step.
        images: Training images, the first so many.
        pool: Images are made smaller by this factor first, as means of squares.
        steps: Optimizer steps; fewer if the loss is no longer finite.
        test_images: The first so many.

    Returns:
        ``accuracy``; ``loss`` of the last fifth of the steps (infinite if it was lost); and ``spread``: the
        standard deviation of each place's output, in training mode, before the first step and after five.
    """
    generator = torch.Generator().manual_seed(seed)
    model = ResNet(depth, norm_factory(norm), generator, shortcuts=shortcuts)
    stream = _smaller(batch_stream(data, images, batch_size, seed), pool)
    loop = Loop(model, stream, steps, lr=lr, momentum=0.9, schedule="cosine")
    probe = F.avg_pool2d(fixed_batches(data, 100, training=True)[0][0], pool)
    spread = [_spread(model, probe)]
    loss = loop.run(FIRST_STEPS).loss
    spread.append(_spread(model, probe))
    while math.isfinite(loss) and loop.done < steps:
        loss = loop.run(max(1, steps // 5)).loss
    sample = [(F.avg_pool2d(x, pool), y) for x, y in fixed_batches(data, 500, training=True)]
    test = [(F.avg_pool2d(x, pool), y) for x, y in fixed_batches(data, test_images)]
    lost = not math.isfinite(loss)
    return {
        "accuracy": 0.1 if lost else recalibrated_accuracy(model, sample, test),
        "loss": math.inf if lost else loss,
        "spread": spread,
    }


def _smaller(batches: Iterator[tuple[Tensor, Tensor]], pool: int) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        yield F.avg_pool2d(images, pool), labels


@torch.no_grad()
def _spread(model: nn.Module, probe: Tensor) -> list[float]:
    found: list[float] = []
    hooks = [
        place.register_forward_hook(lambda module, args, output: found.append(output.std().item()))
        for place in norm_sites(model).values()
    ]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    model(probe)
    for name, value in model.named_buffers():  # the look leaves no trace in the moving averages
        value.copy_(buffers[name])
    for hook in hooks:
        hook.remove()
    return found
