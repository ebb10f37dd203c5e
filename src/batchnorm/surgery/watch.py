"""Hooks that watch the inputs of batch-norm layers during one pass over the data."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.moments import Moments, moments_of

__all__ = ["Watch", "put_statistics"]


class _Stop(BaseException):
    """Ends a forward; no Exception, so that a model's own error handling does not catch it."""


class Watch:
    """Takes the moments of what the layers are given.

    Args:
        layers: All layers of interest, by name; their calls are noted.
        measured: Names of those whose input is measured. That of the others is looked at only to
            see whether it is finite.
        stop: End each forward at its so-many-th call of a layer, before the layer computes; None to
            let it run to its end.
        batchwise: Normalize each measured input with its own moments, as training does.

    Attributes:
        calls: Names of the layers in the order of the last forward's calls.
        moments: Of the last forward, by name.
    """

    def __init__(
        self,
        layers: Mapping[str, BatchNorm],
        measured: Collection[str],
        *,
        stop: int | None = None,
        batchwise: bool = False,
    ) -> None:
        self.layers, self.measured, self.stop, self.batchwise = layers, frozenset(measured), stop, batchwise
        self.calls: list[str] = []
        self.moments: dict[str, Moments] = {}
        self._finite = True

    @contextlib.contextmanager
    def hooked(self) -> Iterator[Self]:
        """Watch while inside; on leaving, the hooks are gone."""
        with contextlib.ExitStack() as stack:
            for name, layer in self.layers.items():

                def before(
                    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
                ) -> None:
                    self._before(name, layer, args[0] if args else kwargs["input"])

                stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            yield self

    def observe(self, forward: Callable[..., object], *args: Any) -> bool:
        """Run a forward; return whether all inputs seen were finite (it ends at the first that is not)."""
        self.calls, self.moments, self._finite = [], {}, True
        with contextlib.suppress(_Stop):
            forward(*args)
        self.moments = {name: moments.as_one_batch() for name, moments in self.moments.items()}
        return self._finite

    def _before(self, name: str, layer: nn.Module, input: Tensor) -> None:
        self.calls.append(name)
        if name in self.measured:
            self._measure(name, layer, input)
        elif self.measured and input.numel():
            # An activation may hide the infinity of an earlier layer from the measured one.
            least, most = input.aminmax()
            self._finite = bool(torch.isfinite(least) & torch.isfinite(most))
        if not self._finite or len(self.calls) == self.stop:
            raise _Stop

    def _measure(self, name: str, layer: nn.Module, input: Tensor) -> None:
        assert isinstance(layer, BatchNorm)
        if input.dim() < 2 or input.shape[1] != layer.num_features:
            return  # the layer's own error says it better
        moments = moments_of(input)
        if moments is None:
            return
        self._finite = moments.is_finite()
        if self.batchwise and self._finite:
            put_statistics(layer, moments.mean, moments.var)
        seen = self.moments.get(name)
        self.moments[name] = moments if seen is None else seen.merge(moments)


def put_statistics(layer: BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Write running statistics in place, in the buffers' own dtype and device.

    Raises:
        ValueError: If they do not fit into the dtype.
    """
    for name, values in (("running_mean", mean), ("running_var", var)):
        buffer = getattr(layer, name)
        buffer.copy_(values)
        if not torch.isfinite(buffer).all():
            raise ValueError(
                f"recalibrate: {name} expected a dtype that holds {values.abs().max().item():.3g}, "
                f"got {buffer.dtype}"
            )
