"""What batch-norm layers are given during a forward, taken by hooks."""

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.doctor.layer import Layer, TorchBatchNorm, channels_first, learns
from batchnorm.doctor.moments import Moments, has_moments, moments

__all__ = ["Call", "Observer"]

OWN = ("torch", "batchnorm")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer.

    Attributes:
        layer: Its name.
        forward: Number of the forward within the batch or step, from 0: the model's own, or one of its parts
            that is called by itself.
        shape: Of the input, channels second.
        moments: None for an input that is empty, masked or not ``(N, C, …)``.
        training: Whether it normalized with the batch.
        grad: Whether gradients were recorded.
        backward: Whether it happened during a backward: a recomputation.
    """

    layer: str
    forward: int
    shape: tuple[int, ...]
    moments: Moments | None
    training: bool
    grad: bool
    backward: bool


class Observer:
    """Notes the calls of layers.

    Args:
        model: The model.
        layers: Those to watch, by name.
        look: Called before each call with the layer's name and its input; for probes.
        failed: Told of an error of a hook; None to raise it in the model's forward.
        running: Whether a forward of the model has begun already.

    Attributes:
        calls: In the order they happened.
        strangers: Class names of batch-norm layers that normalized with the batch in a forward of the model
            but are not in the module tree, by the line of code that called them.
        forward: Number of the forward that runs, since `begin`.
        inputs: Moments of the first input of each, where that is ``(N, C, …)``.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layer],
        look: Callable[[str, Tensor], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
        running: bool = False,
    ) -> None:
        self.model, self.layers, self.look, self.failed = model, layers, look, failed
        self.calls: list[Call] = []
        self.strangers: dict[str, str] = {}
        self.inputs: list[Moments] = []
        self._depth = int(running)  # forwards of the model that are running: one may call itself
        self.begin()

    def begin(self) -> None:
        """A batch or step begins."""
        self.forward = 0
        self._called: set[str] = set()  # in this forward

    @contextlib.contextmanager
    def hooked(self) -> Iterator["Observer"]:
        """Watch while inside; on leaving, the hooks are gone."""
        known = {id(module) for module in self.model.modules()}
        main = threading.get_ident()

        def stranger(module: nn.Module, args: Any) -> None:
            # What runs beside the model's forward is another network's; so is another thread's.
            ours = self._depth > 0 and threading.get_ident() == main
            if ours and isinstance(module, TorchBatchNorm) and id(module) not in known and learns(module):
                self.strangers[_line()] = type(module).__name__

        with contextlib.ExitStack() as stack:
            begin = self._safe(self._begin)
            stack.callback(self.model.register_forward_pre_hook(begin, prepend=True).remove)
            stack.callback(self.model.register_forward_hook(self._end, always_call=True).remove)
            hook = nn.modules.module.register_module_forward_pre_hook(stranger)
            stack.callback(hook.remove)
            for layer in self.layers.values():
                assert layer.module is not None
                before = self._safe(self._before(layer))
                handle = layer.module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
            yield self

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._depth += 1
        if self._called:
            self._next()
        if args and isinstance(args[0], Tensor) and has_moments(args[0]):
            self.inputs.append(moments(args[0]))

    def _next(self) -> None:
        self.forward += 1
        self._called = set()

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        self._depth = max(0, self._depth - 1)  # the first may have begun before the hooks were there

    def _safe(self, hook: Callable[..., None]) -> Callable[..., None]:
        def safe(*given: Any) -> None:
            try:
                hook(*given)
            except Exception as error:
                if self.failed is None:
                    raise
                self.failed(error)

        return safe

    def _before(self, layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            input = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(input, Tensor):
                return
            input = channels_first(module, input)
            backward = torch._C._current_graph_task_id() != -1
            if self._depth == 0 and not backward and layer.name in self._called:
                self._next()
            self._called.add(layer.name)
            # What a mask leaves out would spoil the moments.
            masked = kwargs.get("mask") is not None
            fits = not masked and has_moments(input)
            self.calls.append(
                Call(
                    layer.name,
                    self.forward,
                    tuple(input.shape),
                    moments(input) if fits else None,
                    learns(module),
                    torch.is_grad_enabled(),
                    backward,
                )
            )
            if self.look is not None and fits:
                self.look(layer.name, input.detach())

        return before


def _line() -> str:
    """File and line of the code that runs, outside of torch and of this package."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in OWN:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
