"""Training steps of whole networks: our layers against torch.nn's in the same loop, and lean against not.

The networks differ in their batch-norm places only. Steps are taken in turn; the median of the pairs' ratios
counts. With --apart each network trains in a process of its own, as it would for a user: in one process both
profit from what our kernels do to the C library's heap (decision 41).

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/bench_networks.py [--model lenet] [--batch-size 256] [--apart]
"""

import argparse
import contextlib
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F

import batchnorm as bn
from batchnorm.bench.measure import Stopwatch, measure_pair, quantiles, wall_clock
from batchnorm.models import MODELS, build

NETWORKS = ("torch.nn", "ours", "ours, lean")
PAIRS = (("torch.nn", "ours"), ("ours", "ours, lean"))
STEPS_APART = 5  # at a time, so that a cache is filled only once


def stepper(arguments: argparse.Namespace, network: str) -> Callable[[], None]:
    """A training step of one of `NETWORKS` on random images."""
    torch.set_num_threads(arguments.threads)
    images = torch.rand(arguments.batch_size, 1, 28, 28)
    labels = torch.randint(10, (arguments.batch_size,))
    model = build(arguments.model, norm="torch" if network == "torch.nn" else "batch", seed=0)
    if network == "ours, lean":
        model = bn.lean(model)
    if arguments.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


class Apart:
    """A network that trains in a process of its own; a call takes a few steps there."""

    def __init__(self, arguments: argparse.Namespace, network: str) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        context.Process(target=_serve, args=(theirs, arguments, network), daemon=True).start()

    def __call__(self) -> None:
        """Take the steps, which warms both sides up."""
        self.seconds(1)

    def seconds(self, calls: int) -> float:
        """Seconds of a step, by the clock of its process."""
        self.connection.send(calls * STEPS_APART)
        return float(self.connection.recv())


def _serve(connection: Connection, arguments: argparse.Namespace, network: str) -> None:
    step = stepper(arguments, network)
    with contextlib.suppress(EOFError):  # the other side has gone
        while True:
            connection.send(wall_clock(step, connection.recv()))


def _seconds_apart(network: Callable[[], object], calls: int) -> float:
    assert isinstance(network, Apart)
    return network.seconds(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="lenet")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=41)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--apart", action="store_true", help="each network in a process of its own")
    arguments = parser.parse_args()
    stopwatch: Stopwatch = _seconds_apart if arguments.apart else wall_clock
    print(
        f"{arguments.model}, batch {arguments.batch_size}, threads {arguments.threads}, "
        f"{'channels_last' if arguments.channels_last else 'contiguous'}, "
        f"{'processes of their own' if arguments.apart else 'one process'}, "
        f"torch {torch.__version__}, THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE')}"
    )
    prepare = Apart if arguments.apart else stepper
    steps = {network: prepare(arguments, network) for network in NETWORKS}
    for base, other in PAIRS:
        timings = measure_pair(steps[other], steps[base], arguments.pairs, stopwatch)
        base_rate, other_rate = (arguments.batch_size / quantiles(t)[1] for t in (timings.peer, timings.ours))
        low, middle, high = quantiles(timings.ratios)
        print(
            f"{other} over {base}: {base_rate:,.0f} and {other_rate:,.0f} images/s, "
            f"ratio {middle:.3f} (p20 {low:.3f}, p80 {high:.3f})"
        )


if __name__ == "__main__":
    main()
