"""A model lent for a while: what was changed meanwhile comes back to the bit, on every path.

Buffers are not written and written back but exchanged for copies, so the owner's tensors are never
touched: an interrupt at any moment, or a graph that still waits for its backward, finds them as they were.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.pool import LayerStatistics

__all__ = ["borrowed", "swapped_statistics", "uncompiled"]


class _Uncompiled:
    """Runs compiled code uncompiled while any thread is inside: torch has one stance for all threads."""

    def __init__(self) -> None:
        self._lock, self._inside, self._stance = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stance.close()


_UNCOMPILED = _Uncompiled()


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """Run compiled code uncompiled while inside, in all threads, since it may ignore hooks."""
    # otherwise nothing is compiled, and importing it takes seconds
    return _UNCOMPILED if "torch._dynamo" in sys.modules else contextlib.nullcontext()


@contextlib.contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Lend a model in prediction mode, with copies of all its buffers and without gradients.

    On leaving, the mode of every module, the buffers and torch's random state are those of before; so a
    training goes on with the numbers it would have had. Compiled modules run uncompiled meanwhile.

    Args:
        model: Any.
    """
    modules = list(model.modules())
    # Not by train() and eval(): models override them, to freeze layers or merge weights.
    modes = [(module, module.training) for module in modules if hasattr(module, "training")]  # not if frozen
    buffers = [(module, dict(module._buffers)) for module in modules]
    copies: dict[int, Tensor] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(model)))
        stack.enter_context(uncompiled())
        try:
            for module, _ in modes:
                module.training = False
            for module, originals in buffers:
                for buffer in originals.values():
                    if buffer is not None and id(buffer) not in copies:  # modules may share a buffer
                        copies[id(buffer)] = buffer.clone()
                _put_buffers(module, {name: copies.get(id(buffer)) for name, buffer in originals.items()})
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for module, originals in buffers:
                _put_buffers(module, originals)


def _put_buffers(module: nn.Module, buffers: Mapping[str, Tensor | None]) -> None:
    """Give a module these buffers and no others."""
    if isinstance(module, torch.jit.ScriptModule):  # it can be given no others, and its dict is a copy
        for name, buffer in buffers.items():
            setattr(module, name, buffer)
    else:
        module._buffers.clear()
        module._buffers.update(buffers)


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})


@contextlib.contextmanager
def swapped_statistics(model: nn.Module, statistics: Mapping[str, LayerStatistics]) -> Iterator[None]:
    """Let batch-norm layers predict with other statistics for a while.

    On leaving, each layer has its own running statistics and counter again, to the bit, whatever
    happened to the exchanged ones, updates in training mode included.

    Args:
        model: Any.
        statistics: By layer name, as from `population_statistics`.

    Raises:
        ValueError: If a name is not that of a batch-norm layer with running statistics, or the number
            of channels is another.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> other = LayerStatistics(torch.tensor([3.0]), torch.tensor([4.0]), 2, 1, 2, 0, 0.1)
        >>> with swapped_statistics(layer.eval(), {"": other}):
        ...     layer(torch.tensor([[5.0]])).round(decimals=4).item()
        1.0
        >>> layer.running_mean.item()
        0.0
    """
    modules = dict(model.named_modules())
    layers = {name: _layer_for(modules, name, given) for name, given in statistics.items()}
    originals = {name: dict(layer._buffers) for name, layer in layers.items()}
    try:
        for name, given in statistics.items():
            buffers = layers[name]._buffers
            for key, values in (("running_mean", given.mean), ("running_var", given.var)):
                buffers[key] = values.to(buffers[key], copy=True)
            if (counter := buffers["num_batches_tracked"]) is not None:
                buffers["num_batches_tracked"] = counter.clone()
        yield
    finally:
        for name, layer in layers.items():
            layer._buffers.update(originals[name])


def _layer_for(modules: Mapping[str, nn.Module], name: str, given: LayerStatistics) -> BatchNorm:
    layer = modules.get(name)
    if not isinstance(layer, BatchNorm) or layer.running_mean is None or layer.running_var is None:
        raise ValueError(
            f"swapped_statistics: statistics expected names of layers with running statistics, got {name!r}"
        )
    if given.mean.shape != layer.running_mean.shape:
        raise ValueError(
            f"swapped_statistics: statistics of {name} expected shape {tuple(layer.running_mean.shape)}, "
            f"got {tuple(given.mean.shape)}"
        )
    return layer
