"""One pass over the training set, and one over a test set."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchnorm.train.config import TrainConfig
from batchnorm.train.distributed import World
from batchnorm.train.optimizer import learning_rate

__all__ = ["EpochResult", "evaluate", "train_epoch"]

TICK = 20  # steps between two readings of the loss: each one waits for the device


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """Sums of one epoch over all processes.

    Attributes:
        loss: Mean cross-entropy over the images, in nats.
        accuracy: Share classified rightly as they were trained on.
        images_per_second: Of the whole world.
    """

    loss: float
    accuracy: float
    images_per_second: float


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: TrainConfig,
    world: World,
    first_step: int,
    steps: int,
    on_images: Callable[[int, float, float], None],
) -> EpochResult:
    """Train over the batches once.

    Args:
        model: In any mode; left in training mode. A `DistributedDataParallel` when there are siblings.
        optimizer: Its learning rate is set before each step.
        scaler: Disabled unless the precision is float16.
        batches: Images ``(B, 1, 28, 28)`` float and labels ``(B,)``, the same in every process; each
            process takes its share of every batch.
        config: Gives accumulation, precision, clipping and the schedule.
        world: This process among its siblings.
        first_step: Steps taken before this epoch.
        steps: Steps of the whole training.
        on_images: Called every few steps with images done, mean loss and accuracy so far.
    """
    model.train()
    totals = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, right, images
    start = time.perf_counter()
    for number, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, first_step + number, steps)
        optimizer.zero_grad(set_to_none=True)
        share = slice(world.rank, None, world.size)
        parts = list(
            zip(
                # chunk may give fewer parts in one process than in another, which then wait for each other
                images[share].tensor_split(config.accumulate),
                labels[share].tensor_split(config.accumulate),
                strict=True,
            )
        )
        for part, (x, y) in enumerate(parts):
            with _synchronize(model, last=part == len(parts) - 1):
                with _autocast(config, world.device):
                    output = model(x)
                    # the sum over the whole batch and world, so that parts of any size weigh right
                    loss = F.cross_entropy(output.float(), y, reduction="sum")
                scaler.scale(loss * (world.size / len(labels))).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                totals[0] += loss.detach()
                totals[1] += (output.argmax(1) == y).sum()
        totals[2] += len(labels[share])
        if config.clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        scaler.step(optimizer)
        scaler.update()
        if number % TICK == 0:
            loss_sum, right, done = totals.tolist()
            on_images(int(done) * world.size, loss_sum / done, right / done)
    loss_sum, right, done = world.sum(totals).tolist()
    return EpochResult(loss_sum / done, right / done, done / (time.perf_counter() - start))


def _synchronize(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Exchange gradients between processes only after the last micro-batch."""
    if last or not isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def _autocast(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images that the model classifies rightly in prediction mode; the mode is restored.

    Args:
        model: Any classifier.
        batches: Images and labels on the model's device.
    """
    was_training = model.training
    model.eval()
    try:
        right = total = 0
        for images, labels in batches:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
        return right / total
    finally:
        model.train(was_training)
