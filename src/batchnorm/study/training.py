"""The trial most studies consist of: LeNet, varied, trained for so many steps, and tested."""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.models import norm_sites
from batchnorm.study.images import batch_stream, fixed_batches
from batchnorm.study.networks import lenet
from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.population import population_statistics
from batchnorm.surgery.recalibrate import recalibrate
from batchnorm.train.config import TrainConfig
from batchnorm.train.distributed import World
from batchnorm.train.epoch import EpochResult, evaluate, train_epoch
from batchnorm.train.optimizer import make_optimizer

__all__ = ["Loop", "cost_of", "recalibrated_accuracy", "train_lenet"]

RECALIBRATION = 1000  # training images

# A step costs as much as so many further images: what does not grow with the batch.
STEP = 8


def cost_of(steps: int, batch_size: int, evaluations: int = 1, test_images: int = 1000) -> float:
    """Estimated cost of a training, in training images of LeNet; prediction costs a third."""
    return steps * (batch_size + STEP) + evaluations * (test_images + RECALIBRATION) / 3


class Loop:
    """The training loop of `batchnorm.train`, a few steps at a time.

    Args:
        model: Trained in place.
        batches: An endless stream.
        steps: Of the whole training.
        settings: Of `TrainConfig`: lr, optimizer, momentum, schedule, clip.
    """

    def __init__(
        self, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], steps: int, **settings: Any
    ) -> None:
        self.model, self.batches, self.steps, self.done = model, batches, steps, 0
        # the loop's own settings; what the network is made of is no business of its
        self.config = TrainConfig(arms=("none",), **settings)
        self.optimizer = make_optimizer(model, self.config)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def run(self, steps: int) -> EpochResult:
        """Take so many steps, or fewer if the training ends before."""
        steps = min(steps, self.steps - self.done)
        result = train_epoch(
            self.model,
            self.optimizer,
            self.scaler,
            itertools.islice(self.batches, steps),
            self.config,
            World(0, 1, torch.device("cpu")),
            self.done,
            self.steps,
            lambda *_: None,
        )
        self.done += steps
        return result


def train_lenet(
    *,
    seed: int,
    data: str,
    norm: str = "batch",
    activation: str = "relu",
    at: str = "1234",
    init: str = "xavier",
    inputs: str = "unit",
    input_norm: bool = False,
    dropout: float = 0.0,
    bias: bool = True,
    lr: float = 0.1,
    batch_size: int = 64,
    images: int = 6000,
    steps: int = 200,
    every: int = 0,
    until: float = 2.0,
    test_images: int = 1000,
) -> dict[str, Any]:
    """Train and test; see `lenet` and `batch_stream` for the arguments.

    Args:
        seed: Of weights, order of batches and dropout.
        data: Which images.
        norm: With `lenet`, as are the next three.
        activation: At the places.
        at: Which places.
        init: Of the weights.
        inputs: Of `scaled`.
        input_norm: With `lenet`, as are the next two.
        dropout: Probability.
        bias: Whether there are biases.
        lr: Of plain SGD.
        batch_size: Images a step.
        images: Training images, the first so many.
        steps: Optimizer steps; fewer if the loss is no longer finite.
        every: Test each so many steps; 0 only at the end.
        until: Stop as soon as a test finds this accuracy.
        test_images: The first so many.

    Returns:
        ``accuracy`` (test, recalibrated statistics), ``accuracy_running``, ``train_accuracy`` (recalibrated,
        in prediction mode, on as many training images as there are test images), ``loss`` (mean over the
        last steps, infinite if it was lost), and a ``curve`` of steps, processor seconds and accuracies.
    """
    model = lenet(
        norm,
        seed,
        activation=activation,
        at=at,
        init=init,
        input_norm=input_norm,
        dropout=dropout,
        bias=bias,
    )
    sample = fixed_batches(data, min(images, RECALIBRATION), training=True, inputs=inputs)
    test = fixed_batches(data, test_images, inputs=inputs)
    if norm.startswith("frozen"):
        # what the network has as it begins it will keep; only naming them chooses frozen layers
        recalibrate(model, sample, layers=norm_sites(model))
    loop = Loop(model, batch_stream(data, images, batch_size, seed, inputs), steps, lr=lr)
    curve: dict[str, list[float]] = {"steps": [], "seconds": [], "accuracy": []}
    torch.manual_seed(seed)  # of dropout
    seconds = 0.0
    while True:
        # processor time of the one thread: trials run side by side
        before = time.process_time()
        result = loop.run(every or max(1, steps // 4))
        seconds += time.process_time() - before
        lost = not math.isfinite(result.loss)
        if every or lost or loop.done == steps:
            accuracy = 0.1 if lost else recalibrated_accuracy(model, sample, test)
            for name, value in (("steps", loop.done), ("seconds", seconds), ("accuracy", accuracy)):
                curve[name].append(value)
            if lost or loop.done == steps or accuracy >= until:
                break
    seen = fixed_batches(data, min(images, test_images), training=True, inputs=inputs)
    return {
        "accuracy": accuracy,
        "accuracy_running": 0.1 if lost else evaluate(model, test),
        "train_accuracy": 0.1 if lost else recalibrated_accuracy(model, sample, seen),
        "loss": math.inf if lost else result.loss,
        "curve": curve,
    }


def recalibrated_accuracy(
    model: nn.Module, sample: Iterable[tuple[Tensor, Tensor]], test: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """Share of test images classified rightly with population statistics of a sample.

    A network whose values have overflowed has no such statistics: it counts as guessing.
    """
    try:
        population = population_statistics(model, sample, method="onepass", allow_small_batches=True)
    except ValueError:
        return 0.1
    with swapped_statistics(model, population):
        return evaluate(model, test)
