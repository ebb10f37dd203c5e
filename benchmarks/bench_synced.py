"""What synchronized statistics cost on a CPU: training steps with none, each process's own, and synced ones.

The three networks differ in their batch-norm places only, run under DistributedDataParallel over gloo, and
take steps in turn; the median counts. Collectives of batch normalization are counted, those of DDP are not.

    python benchmarks/bench_synced.py [--model resnet20] [--batch-size 32] [--rounds 15] [--out FILE]
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn
from batchnorm.models import MODELS, build
from batchnorm.ops.environment import describe_environment

ARMS: dict[str, dict[str, Any]] = {
    "none": {"norm": "none"},
    "Batch": {"norm": "batch"},
    "Synced": {"norm": "batch", "stats": bn.stats.Synced()},
}
WORLDS = (1, 2, 4)


def measure(rank: int, world: int, directory: str, model: str, batch_size: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=world)
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))
    networks = {arm: DistributedDataParallel(build(model, **options)) for arm, options in ARMS.items()}
    calls: list[int] = []
    for name in ("all_gather", "all_reduce"):
        setattr(dist, name, functools.partial(counted, getattr(dist, name), calls))
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    traffic: dict[str, list[int]] = {}
    for number in range(rounds + 2):  # the first two warm up
        for arm, network in networks.items():
            calls.clear()
            dist.barrier()
            start = time.perf_counter()
            F.cross_entropy(network(images), labels).backward()
            if number >= 2:
                seconds[arm].append(time.perf_counter() - start)
            traffic[arm] = list(calls)
    if rank == 0:
        rows = {
            arm: {
                "step_ms": 1000 * statistics.median(times),
                "calls": len(traffic[arm]),
                "bytes_sent": sum(traffic[arm]),
            }
            for arm, times in seconds.items()
        }
        Path(directory, "result").write_text(json.dumps(rows))
    dist.destroy_process_group()


def counted(collective: Any, calls: list[int], *args: Any, **options: Any) -> Any:
    """Note what this process puts in: the second argument of all_gather, the first of all_reduce."""
    values = args[1] if len(args) > 1 and isinstance(args[0], list) else args[0]
    calls.append(values.numel() * values.element_size())
    return collective(*args, **options)


def table(record: dict[str, Any]) -> str:
    """Markdown, a row for each number of processes."""
    lines = [
        "| processes | none, ms | Batch, ms | Synced, ms | Synced / Batch | calls | bytes sent by each |"
    ]
    lines.append("| --: " * 7 + "|")
    for world, rows in record["worlds"].items():
        none, own, synced = (rows[arm]["step_ms"] for arm in ARMS)
        sent = rows["Synced"]
        lines.append(
            f"| {world} | {none:.0f} | {own:.0f} | {synced:.0f} | {synced / own:.2f} "
            f"| {sent['calls']} | {sent['bytes_sent']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--batch-size", type=int, default=32, help="of each process")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    worlds = {}
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as directory:
            settings = (world, directory, arguments.model, arguments.batch_size, arguments.rounds)
            torch.multiprocessing.spawn(measure, settings, nprocs=world)
            worlds[str(world)] = json.loads(Path(directory, "result").read_text())
    record = {
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "environment": describe_environment(),
        "worlds": worlds,
    }
    print(table(record))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
