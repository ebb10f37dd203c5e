"""Batches of images, made by indexing tensors."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batches"]


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one epoch; iterate it as often as you like, `epoch` gives those of another.

    The order is a pure function of ``seed`` and the epoch's number, on every device, so that a run
    that was killed and resumed sees the batches it would have seen.

    Args:
        images: Shape ``(N, C, H, W)``; uint8.
        labels: Shape ``(N,)``; int64.
        batch_size: Images a batch, 1 to ``N``; the last batch has the rest.
        seed: Of the order, 0 or more; None keeps the images in their own order.
        drop_last: Leave out a last batch that is smaller than the others.
        device: Where images and labels live and batches are made.
        number: The epoch's number, 0 or more.

    Yields:
        ``(images, labels)``: ``(batch_size, C, H, W)`` float32 in [0, 1], and ``(batch_size,)`` int64.

    Raises:
        ValueError: If an argument is not as said here.

    Example:
        >>> images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
        >>> batches = Batches(images, torch.arange(5), 2)
        >>> [labels.tolist() for _, labels in batches]
        [[0, 1], [2, 3], [4]]
        >>> shuffled = Batches(images, torch.arange(5), 2, seed=0, drop_last=True)
        >>> len(shuffled), sum(len(labels) for _, labels in shuffled.epoch(3))
        (2, 4)
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int | None = None
    drop_last: bool = False
    device: torch.device | str = "cpu"
    number: int = 0

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                "Batches: images expected uint8 of shape (N, C, H, W), "
                f"got {self.images.dtype} of {tuple(self.images.shape)}"
            )
        if self.labels.shape != (count,):
            raise ValueError(f"Batches: labels expected shape ({count},), got {tuple(self.labels.shape)}")
        if not 1 <= self.batch_size <= count:
            raise ValueError(
                f"Batches: batch_size expected 1 to {count}, the images there are, got {self.batch_size}"
            )
        for name, value in (("seed", self.seed or 0), ("number", self.number)):
            if value < 0:
                raise ValueError(f"Batches: {name} expected 0 or more, got {value}")
        # Moved once, as bytes: a quarter of what the float batches would weigh.
        object.__setattr__(self, "images", self.images.to(self.device))
        object.__setattr__(self, "labels", self.labels.to(self.device))

    def epoch(self, number: int) -> "Batches":
        """The same images in the order of epoch ``number``."""
        return dataclasses.replace(self, number=number)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order().to(self.device)
        for index in range(len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            # index_select takes a sixth of the time of images[chosen] on uint8.
            yield self.images.index_select(0, chosen).float().div_(255), self.labels[chosen]

    def _order(self) -> Tensor:
        if self.seed is None:
            return torch.arange(len(self.images))
        # Torch's CPU generator keeps 32 bits of its seed. NumPy mixes the pair into 32 bits, where
        # a sum would give epoch 1 of seed 0 the order of epoch 0 of seed 1.
        mixed = int(np.random.SeedSequence([self.seed, self.number]).generate_state(1)[0])
        return torch.randperm(len(self.images), generator=torch.Generator().manual_seed(mixed))
