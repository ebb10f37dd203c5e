"""Batch-norm layers: drop-in for torch.nn's, with activation, residual and choice of statistics."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from batchnorm.nn.statistics import Batch, Statistics
from batchnorm.ops import NONFINITE, batch_norm, check_backend
from batchnorm.ops.activations import activation_code

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class _Layer(nn.modules.batchnorm._BatchNorm):
    """What the layers of all ranks share; see `BatchNorm2d` for the arguments."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        stats: Statistics | None = None,
        nonfinite: str = "propagate",
        backend: str = "auto",
    ) -> None:
        # torch before 2.13 has no argument for bias
        extra = {} if bias else {"bias": False}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **extra)
        self._keep_statistics_float32()
        activation_code(activation)
        if nonfinite not in NONFINITE:
            raise ValueError(
                f"batch_norm: nonfinite expected one of {', '.join(NONFINITE)}, got {nonfinite!r}"
            )
        stats = Batch() if stats is None else stats
        if not isinstance(stats, Batch):
            raise ValueError(f"batch_norm: stats expected Batch(), got {stats!r}")
        self.activation = activation
        self.stats = stats
        self.nonfinite = nonfinite
        self.backend = check_backend(backend)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return act(bn(input) + residual).

        Args:
            input: Shape ``(N, C, *spatial)`` with the layer's rank and C = ``num_features``.
            residual: Added before the activation; the input's shape and dtype.
        """
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        tracked = not self.training or self.track_running_stats
        running_mean = self.running_mean if tracked else None
        return batch_norm(
            input,
            running_mean,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self.training or running_mean is None,
            self.momentum,
            self.eps,
            num_batches_tracked=self.num_batches_tracked if tracked else None,
            activation=self.activation,
            residual=residual,
            nonfinite=self.nonfinite,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Torch's words, then what differs from torch's layer."""
        words = [super().extra_repr()]  # type: ignore[no-untyped-call]
        if self.activation is not None:
            words.append(f"activation={self.activation!r}")
        if self.stats != Batch():
            words.append(f"stats={self.stats!r}")
        if self.nonfinite != "propagate":
            words.append(f"nonfinite={self.nonfinite!r}")
        if self.backend != "auto":
            words.append(f"backend={self.backend!r}")
        return ", ".join(words)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast as torch does, but keep the running statistics in float32 at least.

        In bfloat16 a running mean stops moving once momentum · difference is below half a unit in
        its last place: with momentum 1e-3 it sticks at 2 where the truth is 5.
        """
        before = (self.running_mean, self.running_var)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in zip(("running_mean", "running_var"), before, strict=True):
            new = getattr(self, name)
            if new is not None and old is not None and new.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, old.to(new.device, torch.float32))
        return self

    def _keep_statistics_float32(self) -> None:
        for name in ("running_mean", "running_var"):
            values = getattr(self, name)
            if values is not None and values.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, values.float())


class BatchNorm1d(_Layer, nn.BatchNorm1d):
    """Batch normalization of ``(N, C)`` or ``(N, C, L)``; see `BatchNorm2d`.

    Example:
        >>> import torch
        >>> layer = BatchNorm1d(1, affine=False)
        >>> layer(torch.tensor([[1.0], [3.0]])).flatten().round(decimals=3).tolist()
        [-1.0, 1.0]
        >>> layer.running_mean.item(), round(layer.running_var.item(), 6)
        (0.20000000298023224, 1.1)
    """


class BatchNorm2d(_Layer, nn.BatchNorm2d):
    """Batch normalization of ``(N, C, H, W)``: act(weight · (x − mean) / √(var + eps) + bias + residual).

    Training uses the batch's mean and biased variance per channel and moves the running statistics
    by ``(1 − momentum) · old + momentum · batch``, with the unbiased variance. Prediction uses the
    running statistics, so one sample at a time is fine.

    Args:
        num_features: C.
        eps: Added to the variance; above 0.
        momentum: Weight of the *new* batch; None for the mean over all batches so far.
        affine: Learn ``weight`` (γ, from 1) and ``bias`` (β, from 0).
        track_running_stats: Keep running statistics; without them prediction uses the batch's too.
        device: As in `torch.nn.BatchNorm2d`.
        dtype: Of the parameters; running statistics stay float32 when this is a half type.
        bias: Learn ``bias``, if affine.
        activation: None, ``relu``, ``leaky_relu``, ``relu6``, ``sigmoid``, ``tanh``, ``silu``,
            ``gelu`` or ``hardswish``, applied in the same kernel.
        stats: Which statistics to normalize with in training; `Batch()` if None.
        nonfinite: What a batch with NaN or infinite statistics does to the running ones:
            ``propagate`` (as torch), ``skip`` or ``raise``.
        backend: ``auto``, ``eager``, ``native`` or ``torch``.

    Raises:
        ValueError: If an argument is unknown; in ``forward``, if the rank is wrong or there is one
            value per channel in training.

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithms 1 and 2, section 3.2.

    Differs from torch:
        Running statistics are kept in float32 when the module is cast to half or bfloat16.
    """


class BatchNorm3d(_Layer, nn.BatchNorm3d):
    """Batch normalization of ``(N, C, D, H, W)``; see `BatchNorm2d`."""
