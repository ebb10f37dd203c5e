"""Training steps of whole networks: our layers against torch.nn's in the same loop, and lean against not.

The networks differ in their batch-norm places only. Steps run in turn in one process; the median of the
pairs' ratios counts.

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/bench_networks.py [--model lenet] [--batch-size 256] [--pairs 41]
"""

import argparse
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F

import batchnorm as bn
from batchnorm.bench.measure import measure_pair, quantiles
from batchnorm.models import MODELS, build


def stepper(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def compare(name: str, base: Callable[[], None], other: Callable[[], None], pairs: int, images: int) -> None:
    """Print both rates and the quantiles of the pairs' ratios."""
    timings = measure_pair(other, base, pairs)
    base_rate, other_rate = (images / quantiles(times)[1] for times in (timings.peer, timings.ours))
    low, middle, high = quantiles(timings.ratios)
    print(
        f"{name}: {base_rate:,.0f} and {other_rate:,.0f} images/s, "
        f"ratio {middle:.3f} (p20 {low:.3f}, p80 {high:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="lenet")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=41)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = torch.rand(arguments.batch_size, 1, 28, 28)
    labels = torch.randint(10, (arguments.batch_size,))
    models = {
        "torch.nn": build(arguments.model, norm="torch", seed=0),
        "ours": build(arguments.model, norm="batch", seed=0),
        "ours, lean": bn.lean(build(arguments.model, norm="batch", seed=0)),
    }
    if arguments.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
        models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    steps = {name: stepper(model, images, labels) for name, model in models.items()}
    print(
        f"{arguments.model}, batch {arguments.batch_size}, threads {arguments.threads}, "
        f"torch {torch.__version__}, THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE')}"
    )
    for base, other in (("torch.nn", "ours"), ("ours", "ours, lean")):
        compare(f"{other} over {base}", steps[base], steps[other], arguments.pairs, arguments.batch_size)


if __name__ == "__main__":
    main()
