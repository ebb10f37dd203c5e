"""LeNet in the variations that the studies compare, each named by a few words."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from batchnorm.models import NormAct, NormFactory, build, norm_factory
from batchnorm.nn import BatchNorm1d, BatchNorm2d
from batchnorm.nn.statistics import Frozen, Ghost, Renorm, Statistics

__all__ = ["PartialNorm", "initialize", "lenet", "places"]


class PartialNorm(nn.modules.batchnorm._BatchNorm):
    """Half of batch normalization: only the mean is taken away, or only the spread.

    Args:
        num_features: Channels.
        part: ``mean`` or ``var``.
    """

    def __init__(self, num_features: int, part: str) -> None:
        super().__init__(num_features)
        self.part = part

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Any shape with the channels second."""
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = input.mean(axes), input.var(axes, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(input.var(axes), 0.1)
        if self.part == "mean":
            normalized = input - mean.view(shape)
        else:
            normalized = input / (var + self.eps).sqrt().view(shape)
        return normalized * self.weight.view(shape) + self.bias.view(shape)


def places(norm: str) -> NormFactory:
    """The maker of normalization places that a few words name.

    Args:
        norm: ``none``; ``batch``; ``ghost:SIZE``; ``renorm``; ``frozen``; ``group:GROUPS``; ``mean-only``
            and ``var-only`` (half of it); ``no-affine``, ``fixed-gamma`` and ``fixed-beta`` (what is
            learned).

    Raises:
        ValueError: If it is unknown.
    """
    kind, _, number = norm.partition(":")
    if kind in ("none", "batch"):
        return norm_factory(kind)
    if kind in _STATISTICS:
        return norm_factory("batch", stats=_STATISTICS[kind](number))
    if kind not in _OTHERS:
        known = ", ".join(("none", "batch", *_STATISTICS, *_OTHERS))
        raise ValueError(f"study: norm expected one of {known}, got {norm!r}")
    return lambda channels, spatial, activation, avg_pool=1: NormAct(
        _OTHERS[kind](channels, spatial, number), activation, avg_pool
    )


_STATISTICS: dict[str, Callable[[str], Statistics]] = {
    "ghost": lambda number: Ghost(int(number)),
    "renorm": lambda number: Renorm(r_max=3, d_max=5),
    "frozen": lambda number: Frozen(),
}


def _batch_norm(channels: int, spatial: int, affine: bool = True) -> nn.modules.batchnorm._BatchNorm:
    return (BatchNorm2d if spatial else BatchNorm1d)(channels, affine=affine)


def _fixed(parameter: str) -> Callable[[int, int, str], nn.Module]:
    def make(channels: int, spatial: int, number: str) -> nn.Module:
        layer = _batch_norm(channels, spatial)
        getattr(layer, parameter).requires_grad_(False)
        return layer

    return make


_OTHERS: dict[str, Callable[[int, int, str], nn.Module]] = {
    "group": lambda channels, spatial, number: nn.GroupNorm(int(number), channels),
    "mean-only": lambda channels, spatial, number: PartialNorm(channels, "mean"),
    "var-only": lambda channels, spatial, number: PartialNorm(channels, "var"),
    "no-affine": lambda channels, spatial, number: _batch_norm(channels, spatial, affine=False),
    "fixed-gamma": _fixed("weight"),
    "fixed-beta": _fixed("bias"),
}


def lenet(
    norm: str,
    seed: int,
    *,
    activation: str = "relu",
    at: str = "1234",
    init: str = "xavier",
    input_norm: bool = False,
    dropout: float = 0.0,
    bias: bool = True,
) -> nn.Module:
    """LeNet, varied; equal seeds and ``init`` give equal weights whatever else differs.

    Args:
        norm: As in `places`.
        seed: Of the weights.
        activation: At the four places.
        at: The places with normalization; the others have none.
        init: As in `initialize`.
        input_norm: Put batch normalization before the first layer too.
        dropout: Probability of leaving out a value after each of the two dense places.
        bias: Keep the biases before the normalization places.
    """
    number = itertools.count(1)
    chosen, none = places(norm), places("none")

    def factory(channels: int, spatial: int, activation: str | None, avg_pool: int = 1) -> nn.Module:
        place = (chosen if str(next(number)) in at else none)(channels, spatial, activation, avg_pool)
        return nn.Sequential(place, nn.Dropout(dropout)) if dropout and not spatial else place

    network = build("lenet", norm=factory, seed=seed, activation=activation)
    initialize(network, init, seed)
    if not bias:
        for name in ("conv1", "conv2", "dense1", "dense2"):
            getattr(network, name).bias = None
    return nn.Sequential(BatchNorm2d(1), network) if input_norm else network


def initialize(network: nn.Module, init: str, seed: int) -> None:
    """Draw the weights of convolutions and dense layers anew, biases 0.

    Args:
        network: Changed in place.
        init: ``xavier``: leave them as built, ``kaiming`` (normal, for ReLU), ``zeros``, or a number: the
            standard deviation of all weights.
        seed: Of the weights.
    """
    if init == "xavier":
        return
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if init == "kaiming":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            else:
                std = 0.0 if init == "zeros" else float(init)
                nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
