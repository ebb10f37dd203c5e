"""One process or many: what ``torchrun`` started, seen as a small value."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["World", "join_world"]


@dataclasses.dataclass(frozen=True)
class World:
    """This process among its siblings.

    Attributes:
        rank: From 0; rank 0 writes records and evaluates.
        size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes records."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes; every process must call it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def expect_alike(self, settings: Mapping[str, object]) -> None:
        """Make sure that all processes were asked the same; every process must call it.

        Args:
            settings: By name; the same names everywhere.

        Raises:
            ValueError: On every process, if a setting is not the same on all of them.
        """
        if self.size == 1:
            return
        of_ranks: list[Any] = [None] * self.size
        dist.all_gather_object(of_ranks, dict(settings))
        for name in settings:
            first = of_ranks[0][name]
            for rank, theirs in enumerate(of_ranks):
                if theirs[name] != first:
                    raise ValueError(
                        f"train: {name} expected the same in all processes, "
                        f"got {first} on rank 0 and {theirs[name]} on rank {rank}"
                    )

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, or be alone.

    Args:
        device: ``cpu`` joins through gloo; ``cuda`` takes the card of the local rank and NCCL.

    Raises:
        ValueError: If the device is unknown or not there.
    """
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # the device meta can hold tensors, but no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"train: device expected one that is here, got {device!r} ({reason})") from error
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1, place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
