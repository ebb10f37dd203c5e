"""A network by name."""

import operator
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from batchnorm.models.lenet import LeNet
from batchnorm.models.norm import NormFactory, norm_factory
from batchnorm.models.resnet import ResNet
from batchnorm.nn.statistics import Statistics

__all__ = ["MODELS", "build"]

_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "resnet20": partial(ResNet, 20),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
}

MODELS = tuple(_BUILDERS)


def build(
    name: str,
    *,
    norm: str | NormFactory = "batch",
    backend: str = "auto",
    seed: int = 0,
    activation: str | None = None,
    stats: Statistics | None = None,
) -> nn.Module:
    """Build a network for images ``(N, 1, 28, 28)`` in ten classes, on the CPU, in training mode.

    Equal seeds give equal weights of convolutions and dense layers whatever the normalization; its
    own weight is 1 and its bias 0. Torch's global generator is left alone.

    Args:
        name: ``lenet``, ``resnet20``, ``resnet56`` or ``resnet110``.
        norm: ``none``, ``batch``, ``torch``, ``scratch`` or a maker of places; see `norm_factory`.
        backend: Of ``batch``; the others ignore it.
        seed: Of the weights, an integer from 0 to 2**64 - 1.
        activation: In place of the network's own (sigmoid for LeNet, ReLU for the residual ones).
        stats: Of ``batch`` and ``scratch``.

    Raises:
        ValueError: If an argument is unknown or out of range.

    Example:
        >>> model = build("lenet", norm="torch", seed=3)
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if name not in _BUILDERS:
        raise ValueError(f"models: name expected one of {', '.join(MODELS)}, got {name!r}")
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise ValueError(f"models: seed expected an integer from 0 to 2**64 - 1, got {seed!r}")
    chosen = {} if activation is None else {"activation": activation}
    # Torch's layers fill themselves from the global generator before ours are drawn.
    with torch.random.fork_rng(devices=[]):
        return _BUILDERS[name](
            norm=norm_factory(norm, backend, stats),
            generator=torch.Generator().manual_seed(number),
            **chosen,
        )
