"""How a network is fed from a loader: whole batches, moved, up to a limit, as often as needed."""

import dataclasses
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Feed", "call_on", "expect_batches", "first_of", "model_input", "own_copy"]


def expect_batches(op: str, loader: object) -> None:
    """Refuse a loader that is no iterable; ``op`` asks, for the error."""
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise ValueError(f"{op}: loader expected an iterable of batches, got {type(loader).__name__}")


@dataclasses.dataclass(frozen=True)
class Feed:
    """A loader and what to do with its batches.

    Attributes:
        loader: Any iterable of batches.
        forward_fn: Runs the model on a batch, ``forward_fn(model, batch)``; None for batches of which
            `model_input` knows what the model is given.
        device: Where the tensors of a batch are moved; None leaves them where they are.
        samples: Stop after the batch that reaches so many samples; None for no limit.
        batches: Stop after so many batches; None for no limit.
        op: Who asks, for errors.

    Raises:
        ValueError: If a limit is no whole number or below 1.
    """

    loader: Iterable[Any]
    forward_fn: Callable[[nn.Module, Any], object] | None = None
    device: torch.device | str | None = None
    samples: int | None = None
    batches: int | None = None
    op: str = "recalibrate"

    def __post_init__(self) -> None:
        """Check the limits."""
        for name in ("samples", "batches"):
            limit = getattr(self, name)
            if limit is not None and (not isinstance(limit, numbers.Integral) or int(limit) < 1):
                raise ValueError(f"{self.op}: {name} expected a whole number of 1 or more, got {limit!r}")

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield a copy of each batch, moved, with its number of samples.

        A copy, since a forward may write into it, and the next pass gets the same batch from the loader.

        Raises:
            ValueError: If the loader is no iterable.
        """
        expect_batches(self.op, self.loader)
        samples = 0
        for number, batch in enumerate(self.loader, 1):
            size = _size(batch)
            samples += size
            yield own_copy(batch, self.device), size
            if number == self.batches or (self.samples is not None and samples >= self.samples):
                return

    def expect_repeatable(self) -> None:
        """Refuse a loader that can be passed over only once.

        Raises:
            ValueError: If it is an iterator.
        """
        if isinstance(self.loader, Iterator):
            raise ValueError(
                f"{self.op}: loader expected one that can be passed over again (a list, a DataLoader) for "
                f"method 'layerwise', got a one-time {type(self.loader).__name__}"
            )

    def forward(self, model: nn.Module, batch: Any) -> object:
        """Run the model on a batch; its outputs.

        Raises:
            ValueError: If there is no ``forward_fn`` and the batch is of another kind.
        """
        if self.forward_fn is not None:
            return self.forward_fn(model, batch)
        return call_on(model, model_input(batch, self.op))


def call_on(model: nn.Module, example: Any) -> Any:
    """Call a model on a tensor, a tuple of arguments, or a mapping of keyword arguments."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def first_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """What a layer is given first, by place or by whatever name; None if nothing."""
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))


def model_input(batch: Any, op: str, argument: str = "loader") -> Tensor | Mapping[str, Any]:
    """What a model is given of a batch: a tensor, or keyword arguments; or what the batch begins with.

    Args:
        batch: As a loader gives it; targets that follow the input are not looked at.
        op: Who asks, for errors.
        argument: Where the batch comes from, for errors.

    Raises:
        ValueError: If the batch neither is nor begins with a tensor or a mapping.
    """
    head = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(head, Tensor | Mapping):
        got = "no batch" if batch is None else type(batch).__name__
        hint = "; forward_fn=lambda model, batch: … runs another kind" if argument == "loader" else ""
        raise ValueError(
            f"{op}: {argument} expected batches that are or begin with a tensor or dict, got {got}{hint}"
        )
    return head


def own_copy(batch: Any, device: torch.device | str | None = None) -> Any:
    """A batch with copies of its tensors, moved if a device is given; other objects are moved only."""
    if isinstance(batch, Tensor):
        return batch.to(batch.device if device is None else device, copy=True)
    if hasattr(batch, "to"):  # the batch types of other libraries
        return batch if device is None else batch.to(device)
    if isinstance(batch, Mapping):
        return {key: own_copy(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(own_copy(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(own_copy(value, device) for value in batch)
    return batch


def _size(batch: Any) -> int:
    """Length of the first tensor in a batch; 1 where none is found."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((_size(part) for part in parts if isinstance(part, Tensor | Mapping | tuple | list)), 1)
