"""Hooks that watch what batch-norm layers normalize during one pass over the data."""

import contextlib
import dataclasses
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor, nn

from batchnorm.ops.masks import as_weights
from batchnorm.surgery.constants import FORWARDS
from batchnorm.surgery.feed import first_of
from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.modules import runs_forward_of
from batchnorm.surgery.moments import Moments, moments_of

__all__ = ["NotFiniteError", "Watch", "put_statistics"]


class NotFiniteError(ValueError):
    """What a layer is given, or its variance, is NaN, infinite or beyond its dtype."""


class _Stop(BaseException):
    """Ends a forward; no Exception, so that a model's own error handling does not catch it."""


@dataclasses.dataclass
class _Call:
    """A call of a subclass with a forward of its own, while it runs.

    What it is given need not be what it normalizes: it may move axes, or take a tensor out of an object.
    Likewise with its mask, which it may make itself, or apply. That is seen when it calls the forward of its
    base class; until then what it was given stands for it.

    Attributes:
        input: What it was given.
        mask: Likewise.
        parts: How many moments of the layer were taken before.
        fits: Whether what was seen last has the layer's channels.
        known: Whether what it normalizes was seen.
    """

    input: object
    mask: Tensor | None
    parts: int
    fits: bool = False
    known: bool = False


class Watch:
    """Takes the moments of what the layers normalize.

    Args:
        layers: All layers of interest, by name; their calls are noted.
        measured: Names of those whose input is measured. That of the others is looked at only to
            see whether it is finite.
        stop: End each forward at its so-many-th call of a layer, before the layer computes (after, if
            it has a forward of its own); None to let it run to its end.
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
        self._parts: dict[str, list[Moments]] = defaultdict(list)
        self._running: dict[str, _Call] = {}
        self._finite = True

    @contextlib.contextmanager
    def hooked(self) -> Iterator[Self]:
        """Watch while inside; on leaving, the hooks are gone."""
        with contextlib.ExitStack() as stack:
            for name, layer in self.layers.items():
                self._hook(name, layer, stack)
            yield self

    def observe(self, forward: Callable[..., object], *args: Any) -> bool:
        """Run a forward; return whether all inputs seen were finite (it ends at the first that is not)."""
        self.calls, self._finite = [], True
        self._parts.clear()
        self._running.clear()
        with contextlib.suppress(_Stop):
            forward(*args)
        self.moments = {
            name: reduce(Moments.merge, parts).as_one_batch() for name, parts in self._parts.items() if parts
        }
        return self._finite

    def _hook(self, name: str, layer: BatchNorm, stack: contextlib.ExitStack) -> None:
        own = not runs_forward_of(layer, *FORWARDS)

        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(kwargs)
            if own:  # which may take its mask by position
                given |= inspect.signature(layer.forward).bind(*args, **kwargs).arguments
            call = _Call(first_of(args, kwargs), given.get("mask"), len(self._parts[name]))
            self.calls.append(name)
            call.fits = self._see(name, call.input, call.mask)
            if own:
                self._running[name] = call
            else:
                self._stop_in_time()

        stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        if not own:
            return
        checked = layer._check_input_dim

        def check(input: Tensor) -> object:
            # of the forward that asks: ours has a mask, torch's none
            self._correct(name, input, sys._getframe(1).f_locals.get("mask"))
            return checked(input)  # type: ignore[no-untyped-call]

        def after(layer: nn.Module, args: object, output: object) -> None:
            self._expect_fit(name, self._running.pop(name))
            self._stop_in_time()

        # torch's forwards and ours ask this of what they normalize
        stack.enter_context(_attribute(layer, "_check_input_dim", check))
        stack.callback(layer.register_forward_hook(after).remove)

    def _stop_in_time(self) -> None:
        if len(self.calls) == self.stop:
            raise _Stop

    def _correct(self, name: str, input: Tensor, mask: Tensor | None) -> None:
        """Put what a subclass normalizes in the place of what it was given."""
        call = self._running.get(name)
        if call is None:
            return
        first, call.known = not call.known, True
        if first and input is call.input and mask is call.mask:
            return
        if first:
            del self._parts[name][call.parts :]
        call.fits = self._see(name, input, mask)

    def _expect_fit(self, name: str, call: _Call) -> None:
        if name in self.measured and not call.fits:
            given, layer = call.input, self.layers[name]
            got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"recalibrate: {name!r}, a {type(layer).__name__} with a forward of its own, expected "
                f"{layer.num_features} channels at axis 1, got {got}; name the other layers in layers="
            )

    def _see(self, name: str, input: object, mask: Tensor | None) -> bool:
        """Measure an input; whether it is one that the layer can normalize."""
        layer = self.layers[name]
        if not isinstance(input, Tensor):
            return False
        if getattr(layer, "channel_dim", 1) == -1:
            mask = mask.movedim(-1, 1) if mask is not None and mask.dim() == input.dim() else mask
            input = input.movedim(-1, 1)
        if input.dim() < 2 or input.shape[1] != layer.num_features:
            return False  # the layer's own error says it better
        weights = None if mask is None else as_weights(mask, input)
        if name in self.measured:
            self._measure(name, layer, input, weights)
        elif self.measured and input.numel():
            # An activation may hide the infinity of an earlier layer from the measured one.
            least, most = (input if weights is None else torch.where(weights > 0, input, 0)).aminmax()
            self._finite = bool(torch.isfinite(least) & torch.isfinite(most))
        if not self._finite:
            raise _Stop
        return True

    def _measure(self, name: str, layer: BatchNorm, input: Tensor, weights: Tensor | None) -> None:
        if weights is not None and weights.shape[1] > 1:
            raise ValueError(
                f"recalibrate: mask of {name!r} expected the same for all channels, got one for each"
            )
        moments = moments_of(input, weights)
        if moments is None:
            return
        self._finite = moments.is_finite()
        if self.batchwise and self._finite:
            put_statistics(layer, moments.mean, moments.var)
        self._parts[name].append(moments)


@contextlib.contextmanager
def _attribute(layer: nn.Module, name: str, value: object) -> Iterator[None]:
    """Give a layer an attribute of its own; on leaving, it has what it had."""
    before = dict(vars(layer))
    vars(layer)[name] = value
    try:
        yield
    finally:
        del vars(layer)[name]
        vars(layer).update({name: before[name]} if name in before else {})


def put_statistics(layer: BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Write running statistics in place, in the buffers' own dtype and device.

    Raises:
        NotFiniteError: If they do not fit into the dtype.
    """
    for name, values in (("running_mean", mean), ("running_var", var)):
        buffer = getattr(layer, name)
        buffer.copy_(values)
        if not torch.isfinite(buffer).all():
            raise NotFiniteError(
                f"recalibrate: {name} expected a dtype that holds {values.abs().max().item():.3g}, "
                f"got {buffer.dtype}"
            )
