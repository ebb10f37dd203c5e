"""What is known of one batch-norm layer."""

import dataclasses

import torch
from torch import Tensor, nn

from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.statistics import Frozen, Rows, Statistics

__all__ = [
    "NO_VARIANCE",
    "OURS",
    "USUAL_EPS",
    "Layer",
    "TorchBatchNorm",
    "channels_first",
    "is_fixed",
    "is_locked",
    "is_ours",
    "keeps",
    "learns",
    "plain",
]

TorchBatchNorm = nn.modules.batchnorm._BatchNorm
NO_VARIANCE = 1e-12  # and below: a 0, perhaps converted
USUAL_EPS = 1e-5  # for a checkpoint, which does not hold it
DRAWN = 0.05  # standard deviation of an initial weight; 0.02 is usual
OURS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A batch-norm layer as it was when the diagnosis began.

    Attributes:
        name: Of the module; ``""`` for a model that is a layer itself.
        kind: ``batch``, ``sync``, ``frozen``, ``foreign`` or ``checkpoint`` (nothing but tensors).
        module: None for ``checkpoint``.
        mean: ``running_mean``, ``(C,)``; None if there is none. A layer with statistics for each domain or
            step has them one after the other, ``(n · C,)``, as weight and bias.
        var: ``running_var``, ``(C,)``.
        weight: ``(C,)``, γ.
        bias: ``(C,)``, β.
        counter: ``num_batches_tracked``; the sum, if there are several.
        eps: None for ``checkpoint``.
        momentum: Weight of the new batch, None for the cumulative mean; NaN where it is not known.
        tracks: Whether the layer says that it keeps running statistics.
        training: Whether a forward normalizes with the batch, if there is one: see `learns`.
    """

    name: str
    kind: str
    module: nn.Module | None
    mean: Tensor | None
    var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    counter: Tensor | None
    eps: float | None
    momentum: float | None
    tracks: bool
    training: bool

    @property
    def count(self) -> int | None:
        """Batches counted; None without a counter."""
        return None if self.counter is None or self.counter.numel() != 1 else int(self.counter)

    @property
    def rows(self) -> int:
        """Domains or steps that have statistics of their own; 1 for any other layer."""
        kept = getattr(self.module, "running_mean", None) if keeps(self.module, Rows) else self.mean
        return len(kept) if isinstance(kept, Tensor) and kept.dim() == 2 else 1

    @property
    def normalizes_batches(self) -> bool:
        """Whether training normalizes with the batch: a frozen or locked layer does not."""
        return self.kind in ("batch", "sync", "foreign") and not is_locked(self.module)

    @property
    def only_normalizes(self) -> bool:
        """Whether its output is that of batch norm alone, not activated or averaged."""
        return getattr(self.module, "activation", None) is None and getattr(self.module, "avg_pool", 1) == 1

    def has_initial_statistics(self) -> bool:
        """Whether mean and variance are exactly (0, 1) in every channel."""
        return (
            self.mean is not None
            and self.var is not None
            and bool((self.mean == 0).all() & (self.var == 1).all())
        )

    def was_trained(self) -> bool:
        """Whether weight or bias moved away from where they start.

        They start from (1, 0), or from a weight drawn around 1, as recipes for generators do, or from
        another constant: a weight of 0, as the last layer of a residual branch, or of 0.1, as in recurrent
        networks; a bias, as fastai's.
        """
        if self.bias is not None and (self.bias != self.bias.flatten()[:1]).any():
            return True
        if self.weight is None or not self.weight.any():
            return False
        if self.weight.numel() > 1 and (self.weight == self.weight.flatten()[:1]).all():
            return False
        off = plain(self.weight) - 1
        drawn = off.numel() > 1 and off.mean().abs() < off.std() < DRAWN
        return bool(off.any() and not drawn)

    @property
    def initial_weight(self) -> float:
        """Weight of the initial mean 0 and variance 1 in an exponential average; 1 before the first batch."""
        return 0.0 if self.momentum is None else (1 - self.momentum) ** (self.count or 0)

    def without_initial(self) -> "Layer":
        """The layer with the statistics that it would have if its initial ones had no weight."""
        weight = self.initial_weight
        if self.mean is None or self.var is None or not 0 < weight < 1:
            return self
        mean, var = plain(self.mean) / (1 - weight), (plain(self.var) - weight) / (1 - weight)
        return dataclasses.replace(self, mean=mean, var=var.clamp_min(0))

    def is_without_variance(self) -> bool:
        """Whether its running variance is 0 in every channel, and no initial value of a layer to be trained.

        torch's layers begin with 1; of others, and in a checkpoint, only batches that were counted tell.
        """
        if self.var is None or not self.var.numel() or (plain(self.var).abs() > NO_VARIANCE).any():
            return False
        return self.kind in ("batch", "sync", "frozen") or self.count != 0

    def is_fresh(self) -> bool:
        """Whether it is as it was made, so that nobody expects its statistics to fit."""
        return not self.count and self.has_initial_statistics() and not self.was_trained()

    def gain(self, usual_eps: float | None = None) -> Tensor | None:
        """|weight| / √(running_var + eps), ``(C,)`` float64; None if one is missing.

        Args:
            usual_eps: For a checkpoint, which does not hold it.
        """
        eps = usual_eps if self.eps is None else self.eps
        if self.var is None or eps is None:
            return None
        weight = torch.ones_like(plain(self.var)) if self.weight is None else plain(self.weight)
        return weight.abs() / (plain(self.var) + eps).sqrt()


def plain(values: Tensor) -> Tensor:
    """Float64 on the CPU, without a graph."""
    return values.detach().cpu().double()


def is_fixed(module: nn.Module | None) -> bool:
    """Whether its statistics are `Frozen`, which neither ``train()`` nor torch's ``update_bn`` thaws."""
    return keeps(module, Frozen)


def is_locked(module: nn.Module | None) -> bool:
    """Whether ``train()`` cannot put the layer into training mode: its ``train`` is not torch's."""
    return module is not None and (
        "train" in vars(module) or type(module).train is not nn.Module.train or is_fixed(module)
    )


def learns(module: nn.Module) -> bool:
    """Whether a forward normalizes with the batch, as far as the mode says."""
    return module.training and not is_fixed(module)


def is_ours(module: nn.Module | None) -> bool:
    """Whether it is a layer of this package, which keeps its statistics in float32 and out of repetitions."""
    return isinstance(module, OURS)


def channels_first(module: nn.Module, input: Tensor) -> Tensor:
    """An input as ``(N, C, *spatial)``, wherever the layer has its channels."""
    return input.movedim(-1, 1) if getattr(module, "channel_dim", 1) == -1 else input


def keeps(module: nn.Module | None, kind: type[Statistics]) -> bool:
    """Whether it is a layer of this package with statistics of a kind."""
    stats = getattr(module, "stats", None)
    return isinstance(stats, Statistics) and stats.find(kind) is not None
