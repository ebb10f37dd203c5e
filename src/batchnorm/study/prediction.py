"""The trial of C06: the textbook's training, tested with every kind of statistics after each epoch."""

import copy
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.models import norm_sites
from batchnorm.study.images import batch_stream, fixed_batches
from batchnorm.study.networks import lenet
from batchnorm.study.training import Loop, recalibrated_accuracy
from batchnorm.surgery.borrow import swapped_statistics
from batchnorm.surgery.pool import LayerStatistics
from batchnorm.train.epoch import evaluate

__all__ = ["train_book"]

Batches = Iterable[tuple[Tensor, Tensor]]


class _Averages:
    """Moving averages with other momenta than the layer's own, from the same batches."""

    def __init__(self, model: nn.Module, momenta: tuple[float, ...]) -> None:
        self.layers: dict[str, Any] = dict(norm_sites(model))
        self.values = {
            momentum: {
                name: (torch.zeros(layer.num_features), torch.ones(layer.num_features))
                for name, layer in self.layers.items()
            }
            for momentum in momenta
        }
        for name, layer in self.layers.items():
            layer.register_forward_pre_hook(self._follow(name))

    def _follow(self, name: str) -> Any:
        @torch.no_grad()
        def follow(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not layer.training or layer is not self.layers[name]:  # a copy has the hook too
                return
            axes = [axis for axis in range(args[0].dim()) if axis != 1]
            var, mean = torch.var_mean(args[0], axes)
            for momentum, layers in self.values.items():
                layers[name][0].lerp_(mean, momentum)
                layers[name][1].lerp_(var, momentum)

        return follow

    def statistics(self, momentum: float) -> Mapping[str, LayerStatistics]:
        return {
            name: LayerStatistics(mean, var, 1, 1, 1, 0, 0.0)
            for name, (mean, var) in self.values[momentum].items()
        }


def train_book(
    *,
    seed: int,
    data: str,
    lr: float,
    momenta: tuple[float, ...],
    batch_size: int,
    images: int,
    epochs: int,
    test_images: int,
) -> dict[str, Any]:
    """LeNet with sigmoid and batch normalization, tested after each epoch in every way of C06.

    Args:
        seed: Of weights and order of batches.
        data: Which images.
        lr: Of plain SGD.
        momenta: Of moving averages beside the layers' own, 0.1.
        batch_size: Images a step.
        images: Training images, the first so many.
        epochs: Passes over them.
        test_images: The first so many.

    Returns:
        Test accuracies by epoch: ``running`` (the layers' own averages), ``recalibrated``, ``batch`` (each
        test batch's own statistics), ``batch_of_4`` (the same in batches of four), one list for each of the
        ``momenta`` in ``averages``; and ``single``, the largest difference that it makes to a logit whether
        an image is predicted alone.
    """
    model = lenet("batch", seed, activation="sigmoid")
    averages = _Averages(model, momenta)
    steps = images // batch_size
    loop = Loop(model, batch_stream(data, images, batch_size, seed), steps * epochs, lr=lr)
    sample = fixed_batches(data, min(images, 1000), training=True)
    test = fixed_batches(data, test_images)
    result: dict[str, Any] = {name: [] for name in ("running", "recalibrated", "batch", "batch_of_4")}
    result["averages"] = [[] for _ in momenta]
    for _ in range(epochs):
        loop.run(steps)
        result["running"].append(evaluate(model, test))
        result["recalibrated"].append(recalibrated_accuracy(model, sample, test))
        for found, momentum in zip(result["averages"], momenta, strict=True):
            with swapped_statistics(model, averages.statistics(momentum)):
                found.append(evaluate(model, test))
        result["batch"].append(_with_batch_statistics(model, test, 500))
        result["batch_of_4"].append(_with_batch_statistics(model, test, 4))
    result["single"] = _single(model, test[0][0][:16])
    return result


@torch.no_grad()
def _with_batch_statistics(model: nn.Module, test: Batches, size: int) -> float:
    other = copy.deepcopy(model).train()  # a copy: its running statistics move
    right = [
        (other(images[i : i + size]).argmax(1) == labels[i : i + size]).float().mean().item()
        for images, labels in test
        for i in range(0, len(labels), size)
    ]
    return statistics.fmean(right)


@torch.no_grad()
def _single(model: nn.Module, images: Tensor) -> float:
    was_training = model.training
    model.eval()
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    model.train(was_training)
    return float((together - alone).abs().max())
