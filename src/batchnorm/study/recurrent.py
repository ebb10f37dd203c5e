"""The trial of C11: an LSTM that reads Fashion-MNIST row by row, normalized in one way or another."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.nn import BatchNorm1d
from batchnorm.nn.statistics import PerStep
from batchnorm.study.images import batch_stream, fixed_batches
from batchnorm.study.training import Loop
from batchnorm.train.epoch import evaluate

__all__ = ["NORMS", "RowLSTM", "settle", "train_rows"]

ROWS = 28
NORMS = ("none", "batch", "per-step", "layer")


class RowLSTM(nn.Module):
    """LSTM over the rows of an image, normalized before the gates and before the output.

    Args:
        norm: One of `NORMS`: none; batch normalization with one set of statistics for all steps; with a set
            for each step; layer normalization.
        hidden: Size of the state.
        varied: Rows beyond a length of 14, 21 or 28 are padding; the state behind the last real row decides.
        masked: Padding stays out of the statistics.

    References:
        Hochreiter & Schmidhuber 1997, "Long short-term memory".
        Cooijmans et al. 2016, arXiv:1603.09025, equations 6 to 8, gamma from 0.1.
        Ba, Kiros & Hinton 2016, arXiv:1607.06450, equations 20 to 22.
    """

    def __init__(self, norm: str, hidden: int, varied: bool, masked: bool) -> None:
        super().__init__()
        self.hidden, self.varied, self.masked = hidden, varied, masked
        self.from_input = nn.Linear(ROWS, 4 * hidden, bias=False)
        self.from_state = nn.Linear(hidden, 4 * hidden)
        self.norms = nn.ModuleList(_norm(norm, size) for size in (4 * hidden, 4 * hidden, hidden))
        self.output = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        rows = images.squeeze(1)
        length = self._lengths(rows)
        state = memory = rows.new_zeros(len(rows), self.hidden)
        for step in range(ROWS):
            real = length > step
            # padding is white: zeros would be like the many dark pixels
            x = torch.where(real[:, None], rows[:, step], 1.0)
            gates = self._normalized(0, self.from_input(x), step, real)
            gates = gates + self._normalized(1, self.from_state(state), step, real)
            keep, write, read, value = gates.chunk(4, 1)
            new_memory = (keep + 1).sigmoid() * memory + write.sigmoid() * value.tanh()
            new_state = read.sigmoid() * self._normalized(2, new_memory, step, real).tanh()
            memory = torch.where(real[:, None], new_memory, memory)
            state = torch.where(real[:, None], new_state, state)
        logits: Tensor = self.output(state)
        return logits

    def _lengths(self, rows: Tensor) -> Tensor:
        """14, 21 or 28 rows, by the image's own pixels: the same at every visit."""
        if not self.varied:
            return rows.new_full((len(rows),), ROWS)
        return 14 + 7 * ((rows.sum((1, 2)) * 255).round().long() % 3)

    def _normalized(self, number: int, values: Tensor, step: int, real: Tensor) -> Tensor:
        norm = self.norms[number]
        options: dict[str, Any] = {}
        if isinstance(norm, BatchNorm1d):
            options["mask"] = real if self.masked else None
            options["step"] = step if norm.stats.find(PerStep) else None
        normalized: Tensor = norm(values, **options)
        return normalized


def _norm(norm: str, size: int) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    if norm == "layer":
        return nn.LayerNorm(size)
    stats = PerStep(ROWS) if norm == "per-step" else None
    layer = BatchNorm1d(size, stats=stats, excluded="normalize")
    nn.init.constant_(layer.weight, 0.1)
    return layer


@torch.no_grad()
def settle(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give batch-norm layers the mean of the statistics that they meet in one pass over training images.

    `batchnorm.surgery.recalibrate` leaves layers with statistics a step alone, for it cannot know the step.

    Args:
        model: Changed in place; its mode stays.
        batches: Large, for each is normalized with its own statistics, as in training.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm1d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
    was_training = model.training
    model.train()
    for images, _ in batches:
        model(images)
    model.train(was_training)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def train_rows(
    *,
    seed: int,
    data: str,
    norm: str,
    varied: bool,
    masked: bool,
    hidden: int,
    lr: float,
    batch_size: int,
    images: int,
    steps: int,
    test_images: int,
) -> dict[str, Any]:
    """Train with Adam, gradients clipped at 1; test with both kinds of statistics.

    Returns:
        ``accuracy``, with statistics of the training set (see `settle`); ``accuracy_running``;
        ``train_accuracy`` and ``loss`` over the last quarter of the steps, in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RowLSTM(norm, hidden, varied, masked)
    stream = batch_stream(data, images, batch_size, seed)
    loop = Loop(model, stream, steps, lr=lr, optimizer="adam", clip=1.0)
    loop.run(steps - steps // 4)
    result = loop.run(steps // 4)
    test = fixed_batches(data, test_images)
    running = evaluate(model, test)
    settle(model, fixed_batches(data, 2000, training=True))
    return {
        "accuracy": evaluate(model, test),
        "accuracy_running": running,
        "train_accuracy": result.accuracy,
        "loss": result.loss if math.isfinite(result.loss) else math.inf,
    }
