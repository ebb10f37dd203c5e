"""The trial of C12: step times of data-parallel training, with the kinds of normalization in turn."""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.spawn import spawn

from batchnorm.models import build
from batchnorm.nn.statistics import Batch, Synced

__all__ = ["ARMS", "time_steps"]

ARMS = ("none", "local", "synced")
WARM_UP = 3


def time_steps(*, seed: int, processes: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Time LeNet's training steps in ``processes`` processes of this machine that exchange gradients by gloo.

    The arms take their steps in turn, so that what else the machine does meets them all alike.

    Args:
        seed: Of weights and images.
        processes: How many, each with one thread.
        batch_size: Images in a step of each process.
        steps: Timed steps of each arm.

    Returns:
        For each of `ARMS`: ``seconds``, the median step of the first process; ``calls`` and ``bytes``: the
        collectives of its batch-norm layers in a step and what this process gives to them. ``gradients``: the
        bytes of gradients that are exchanged anyway.
    """
    with tempfile.TemporaryDirectory() as directory:
        arguments = (processes, directory, seed, batch_size, steps)
        spawn(_work, arguments, nprocs=processes)  # type: ignore[no-untyped-call]
        found: dict[str, Any] = torch.load(Path(directory) / "result.pt", weights_only=True)
    return found


def _work(rank: int, processes: int, directory: str, seed: int, batch_size: int, steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=processes)
    try:
        generator = torch.Generator().manual_seed(seed * 1000 + rank)
        images = torch.rand(batch_size, 1, 28, 28, generator=generator)
        labels = torch.randint(10, (batch_size,), generator=generator)
        models = {arm: _network(arm, seed, processes) for arm in ARMS}
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        traffic: dict[str, tuple[int, int]] = {}
        for step in range(WARM_UP + steps):
            for arm, model in models.items():
                dist.barrier()
                with _counted() as counts:
                    start = time.perf_counter()
                    model.zero_grad()
                    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
                    taken = time.perf_counter() - start
                if step >= WARM_UP:
                    seconds[arm].append(taken)
                    traffic[arm] = counts[0], counts[1]
        if rank == 0:
            result: dict[str, Any] = {
                arm: {
                    "seconds": statistics.median(seconds[arm]),
                    "calls": traffic[arm][0],
                    "bytes": traffic[arm][1],
                }
                for arm in ARMS
            }
            parameters = models["none"].parameters()
            result["gradients"] = sum(p.numel() * p.element_size() for p in parameters)
            torch.save(result, Path(directory) / "result.pt")
    finally:
        dist.destroy_process_group()
    # Not through Python's shutdown: DistributedDataParallel keeps gloo's threads alive, and one that lets go
    # of its last Python object then aborts the process.
    os._exit(0)


def _network(arm: str, seed: int, processes: int) -> nn.Module:
    norm = "none" if arm == "none" else "batch"
    stats = None if arm == "none" else Synced() if arm == "synced" else Batch()
    model = build("lenet", norm=norm, seed=seed, stats=stats)
    if processes == 1:
        return model
    return nn.parallel.DistributedDataParallel(model)


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Count calls and bytes of the collectives called from Python: those of the layers.

    Gradients are exchanged from C++ and are not seen here.
    """
    counts = [0, 0]
    originals = {name: getattr(dist, name) for name in ("all_gather", "all_reduce")}

    def counting(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = args[1] if name == "all_gather" else args[0]
            counts[0] += 1
            counts[1] += given.numel() * given.element_size()
            return originals[name](*args, **kwargs)

        return call

    for name in originals:
        setattr(dist, name, counting(name))
    try:
        yield counts
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
