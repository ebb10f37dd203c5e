"""Fashion-MNIST for trials: loaded once a process, in batches that never end."""

import functools
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from batchnorm.data import Batches, FashionMNIST, load_embedded_sample, load_fashion_mnist

__all__ = ["batch_stream", "fixed_batches", "images_of", "scaled"]

Batch = tuple[Tensor, Tensor]
Inputs = Callable[[Tensor], Tensor]

EVALUATION_BATCH = 500


@functools.cache
def images_of(data: str) -> FashionMNIST:
    """The images that a plan names.

    Raises:
        ValueError: If the whole set is wanted and not here.
    """
    if data == "embedded-sample":
        return load_embedded_sample()
    found = load_fashion_mnist(notify=lambda warning: None)
    if found.source != data:
        raise ValueError(f"study: data expected {data} on this machine, got {found.source}")
    return found


def scaled(inputs: str, data: str) -> Inputs:
    """What becomes of pixels in [0, 1].

    Args:
        inputs: ``unit``: nothing; ``raw``: 0 to 255; ``standard``: mean 0 and deviation 1 over all training
            images.
        data: As in `images_of`.
    """
    if inputs == "unit":
        return lambda images: images
    if inputs == "raw":
        return lambda images: images * 255
    if inputs == "standard":
        pixels = images_of(data).train_images.float() / 255
        mean, std = pixels.mean(), pixels.std()
        return lambda images: (images - mean) / std
    raise ValueError(f"study: inputs expected unit, raw or standard, got {inputs!r}")


def batch_stream(data: str, images: int, batch_size: int, seed: int, inputs: str = "unit") -> Iterator[Batch]:
    """Shuffled training batches, epoch after epoch, all of one size.

    Args:
        data: As in `images_of`.
        images: Use the first so many.
        batch_size: At most ``images``.
        seed: Of the order.
        inputs: As in `scaled`.
    """
    change = scaled(inputs, data)
    source = images_of(data)
    batches = Batches(
        source.train_images[:images], source.train_labels[:images], batch_size, seed=seed, drop_last=True
    )
    for epoch in itertools.count(1):
        for x, y in batches.epoch(epoch):
            yield change(x), y


def fixed_batches(data: str, images: int, *, training: bool = False, inputs: str = "unit") -> list[Batch]:
    """The first so many test (or training) images in their order, in batches of 500 or fewer."""
    change = scaled(inputs, data)
    source = images_of(data)
    x, y = (
        (source.train_images, source.train_labels) if training else (source.test_images, source.test_labels)
    )
    size = min(EVALUATION_BATCH, images, len(y))
    with torch.no_grad():
        return [(change(a), b) for a, b in Batches(x[:images], y[:images], size, drop_last=True)]
