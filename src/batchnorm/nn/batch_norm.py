"""Batch-norm layers: drop-in for torch.nn's, with activation, residual and choice of statistics."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from batchnorm.nn.averages import Pending, is_repetition, moved_in_vain
from batchnorm.nn.composed import EXCLUDED, composed_forward, forward_with_channels_last
from batchnorm.nn.corrections import correction_memory
from batchnorm.nn.statistics import Batch, Cumulative, Frozen, Renorm, Rows, Scheduled, Statistics
from batchnorm.ops import NONFINITE, batch_norm, check_backend
from batchnorm.ops.activations import activation_code
from batchnorm.ops.pooling import check_avg_pool

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]

# said in `repr` only where it is otherwise
_USUAL = {"avg_pool": 1, "nonfinite": "propagate", "excluded": "zero", "channel_dim": 1, "backend": "auto"}

# torch.fx takes a module for one step of a graph, whatever is in it, if this is where the module says it is
# from; the class still says where it is
FX_LEAF = "torch.nn"


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
        avg_pool: int = 1,
        stats: Statistics | None = None,
        nonfinite: str = "propagate",
        excluded: str = "zero",
        channel_dim: int = 1,
        backend: str = "auto",
    ) -> None:
        for name, number in (("eps", eps), ("momentum", momentum if momentum is not None else 0)):
            if not isinstance(number, numbers.Real | Tensor):  # a YAML file gives 1e-5 as a string
                raise TypeError(f"batch_norm: {name} expected a number, got {number!r}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)  # torch before 2.13 has no argument for it
        activation_code(activation)
        for name, value, known in (("nonfinite", nonfinite, NONFINITE), ("excluded", excluded, EXCLUDED)):
            if value not in known:
                raise ValueError(f"batch_norm: {name} expected one of {', '.join(known)}, got {value!r}")
        if channel_dim not in (1, -1):
            raise ValueError(f"batch_norm: channel_dim expected 1 or -1, got {channel_dim!r}")
        if check_avg_pool(avg_pool) > 1 and not (isinstance(self, nn.BatchNorm2d) and channel_dim == 1):
            raise ValueError(
                f"batch_norm: avg_pool expected 1 but for BatchNorm2d with channel_dim=1, got {avg_pool}"
            )
        self.activation = activation
        self.avg_pool = avg_pool
        self.nonfinite = nonfinite
        self.excluded = excluded
        self.channel_dim = channel_dim
        self.backend = check_backend(backend)
        self.__module__ = FX_LEAF
        self.label: str | None = None
        self.agreed_with: int | None = None
        self._set_statistics(Batch() if stats is None else stats)
        self._keep_statistics_exact()

    @property
    def stats(self) -> Statistics:
        """The kind of statistics; `batchnorm.convert` gives a layer others, in place."""
        return self._stats

    @stats.setter
    def stats(self, stats: object) -> NoReturn:
        raise AttributeError(
            f"batch_norm: stats of {self.title()} expected to stay, got {stats!r}: "
            "bn.convert(layer, stats) gives a layer others"
        )

    def _set_statistics(self, stats: Statistics) -> None:
        """Keep the kind of statistics, and what it needs."""
        if not isinstance(stats, Statistics):
            raise ValueError(f"batch_norm: stats expected a kind such as Batch(), got {stats!r}")
        self._stats = stats
        self._plain = type(stats) is Batch
        self._frozen, self._cumulative = stats.find(Frozen), stats.find(Cumulative) is not None
        if self.backend == "torch" and not self._plain:
            raise ValueError(f"batch_norm: backend expected another with {stats!r}, got 'torch'")
        for kind in stats.kinds():
            if isinstance(kind, (Rows, Renorm, Frozen, Scheduled)) and not self.track_running_stats:
                raise ValueError(f"batch_norm: track_running_stats expected True with {kind!r}, got False")
        rows = stats.find(Rows)
        if rows is not None:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                values = getattr(self, name)
                setattr(self, name, values.expand(rows.number, *values.shape).clone())
        if self._frozen is not None and self._frozen.affine:
            for parameter in self.parameters():
                parameter.requires_grad_(False)

    def reset_running_stats(self) -> None:
        """Start the running statistics afresh, and forget the batches that they have not followed yet.

        Those of `Frozen` stay: nothing would ever fill them again.
        """
        if vars(self).get("_frozen") is None:
            super().reset_running_stats()
        self._forget()

    def reset_parameters(self) -> None:
        """Start weight from 1, bias from 0, and the running statistics afresh."""
        self.reset_running_stats()
        for values, start in ((self.weight, 1), (self.bias, 0)):
            if values is not None:  # which torch before 2.13 takes bias never to be
                nn.init.constant_(values, start)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._keep_statistics_exact()  # with assign=True they are the state dict's own
        self._forget()

    def _forget(self) -> None:
        self.pending: Pending | None = None
        self.corrections = correction_memory()

    def __getstate__(self) -> dict[str, Any]:
        # a copy may go to another world of processes, which have agreed on nothing
        return {**self.__dict__, "agreed_with": None}

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, which cannot compile `forward` and would only say why."""
        raise TypeError(
            f"torch.jit.script: {self.title()} expected torch.nn's layer, got {type(self).__name__}: "
            "script what bn.revert(copy.deepcopy(model))[0] returns, or use torch.jit.trace or torch.export"
        )

    def title(self) -> str:
        """How errors name the layer."""
        return f"layer {self.label or type(self).__name__} (num_features {self.num_features})"

    def learns(self) -> bool:
        """Whether a forward pass uses the batch's statistics and moves the running ones."""
        return self.training and self._frozen is None

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        domain: int | Tensor | None = None,
        step: int | Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Return act(bn(input) + residual), averaged over windows if the layer has an ``avg_pool``.

        Args:
            input: Shape ``(N, C, *spatial)`` with the layer's rank and C = ``num_features``; with
                ``channel_dim=-1`` ``(N, *spatial, C)``.
            residual: Added before the activation; the input's shape and dtype.
            mask: Which positions count: True, or a weight of at least 0; broadcasts to
                ``(N, *spatial)``, or, having the input's rank, to the input's shape. On a GPU nobody looks
                whether a weight is negative, infinite or NaN.
            domain: With `Domains`: of all samples, or ``(N,)`` of each.
            step: With `PerStep`: of all samples; or the numbers of samples at steps 0, 1, …, which lie one
                after the other, as in `torch.nn.utils.rnn.PackedSequence`.

        Raises:
            ValueError: If the rank is wrong, there is one value per channel in training, or ``mask``,
                ``domain`` or ``step`` does not fit.
            RuntimeError: If sizes or dtypes do not fit together, or a process of a `Synced` layer fails.
            NotImplementedError: If the input is not floating.
            TypeError: If ``residual`` or ``mask`` is no tensor.
            FloatingPointError: With ``nonfinite="raise"``, before anything is changed.
        """
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        plain = self._plain or self.stats.is_idle(self.learns())
        if not plain or mask is not None or domain is not None or step is not None:
            return composed_forward(self, input, residual, mask, domain, step)
        if self.channel_dim != 1:
            return forward_with_channels_last(self, input, residual)
        return self.forward_on_row(input, residual)

    def forward_on_row(self, input: Tensor, residual: Tensor | None, row: int | None = None) -> Tensor:
        """The forward pass of `Batch`, with one row of the running statistics; None for the only one."""
        learns = self.learns()
        mean, var, tracked, weight, bias = self._tensors()
        if row is not None:
            mean, var, tracked = (running[row] for running in (mean, var, tracked))  # type: ignore[index]
        if learns and not self.track_running_stats:
            mean = var = tracked = None
        elif learns and is_repetition():
            # a batch that activation checkpointing repeats must not move the running statistics again
            mean, var, tracked = moved_in_vain(self, input, mean, var, tracked)
        return batch_norm(
            input,
            mean,
            var,
            weight,
            bias,
            learns or mean is None,
            None if self._cumulative else self.momentum,
            self.eps,
            num_batches_tracked=tracked,
            activation=self.activation,
            residual=residual,
            avg_pool=self.avg_pool,
            nonfinite=self.nonfinite,
            backend=self.backend,
        )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        """Running mean, variance, counter; weight, bias. As attributes each takes half a microsecond."""
        try:
            running, learned = self._buffers, self._parameters
            moved = running["running_mean"], running["running_var"], running["num_batches_tracked"]
            return *moved, learned["weight"], learned["bias"]
        except KeyError:  # one is somewhere else, a parametrization's for one
            moved = self.running_mean, self.running_var, self.num_batches_tracked
            return *moved, self.weight, self.bias

    def extra_repr(self) -> str:
        """Torch's words, then what differs from torch's layer."""
        words = [super().extra_repr()]  # type: ignore[no-untyped-call]
        if self.activation is not None:
            words.append(f"activation={self.activation!r}")
        if self.stats != Batch():
            words.append(f"stats={self.stats!r}")
        for name, usual in _USUAL.items():
            if getattr(self, name) != usual:
                words.append(f"{name}={getattr(self, name)!r}")
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
        self._keep_count_whole()
        return self

    def _keep_statistics_exact(self) -> None:
        self._keep_count_whole()
        for name in ("running_mean", "running_var"):
            values = getattr(self, name)
            if values is not None and values.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, values.float())

    def _keep_count_whole(self) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked = self.num_batches_tracked.long()


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
        eps: Added to the variance; above 0 in training.
        momentum: Weight of the *new* batch; None for the mean over all batches so far.
        affine: Learn ``weight`` (γ, from 1) and ``bias`` (β, from 0).
        track_running_stats: Keep running statistics; without them prediction uses the batch's too.
        device: As in `torch.nn.BatchNorm2d`.
        dtype: Of the parameters; running statistics stay float32 when this is a half type.
        bias: Learn ``bias``, if affine.
        activation: None, ``relu``, ``leaky_relu``, ``relu6``, ``sigmoid``, ``tanh``, ``silu``,
            ``gelu`` or ``hardswish``, applied in the same kernel.
        avg_pool: Size of the windows, side by side, whose averages are returned, as if
            `torch.nn.AvgPool2d` followed; 1 for none, and of other layers than `BatchNorm2d` with
            channels at 1. Of contiguous images that windows fill, the compiled CPU kernels never store
            what is averaged.
        stats: Which statistics to normalize with, a kind or a sum of kinds of
            `batchnorm.nn.statistics`; `Batch()` if None.
        nonfinite: What a batch with NaN or infinite statistics does to the running ones:
            ``propagate`` (as torch), ``skip`` or ``raise``.
        excluded: What the output is where a mask excludes the input from the statistics: ``zero``, or
            ``normalize`` for the same as elsewhere; then NaN there is NaN in the output and the gradients.
        channel_dim: Where the channels are, 1 or −1.
        backend: ``auto``, ``eager``, ``native`` or ``torch``; the last only with `Batch()`, and without
            masks.

    Raises:
        ValueError: If an argument is unknown, or arguments contradict each other.
        TypeError: If ``eps`` or ``momentum`` is no number.

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithms 1 and 2, section 3.2.

    Differs from torch:
        Running statistics are kept in float32 when the module is cast to half or bfloat16.
    """


class BatchNorm3d(_Layer, nn.BatchNorm3d):
    """Batch normalization of ``(N, C, D, H, W)``; see `BatchNorm2d`."""
