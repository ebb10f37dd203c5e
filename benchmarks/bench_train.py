"""Images per second of ``batchnorm train``'s loop against a bare torch script of the same network.

Both train the textbook's LeNet with batch normalization for one epoch at a time, in turn, in one
process and with the same threads; the median of the pairs' ratios counts.

    python benchmarks/bench_train.py [--rounds 5] [--threads 2] [--arm batch]
"""

import argparse
import os
import statistics
import time

import torch
from torch import nn

from batchnorm.data import Batches, load_fashion_mnist
from batchnorm.models import build
from batchnorm.train import ARMS, TrainConfig
from batchnorm.train.distributed import World
from batchnorm.train.epoch import train_epoch
from batchnorm.train.optimizer import make_optimizer


def bare_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 120), nn.BatchNorm1d(120), nn.Sigmoid(),
        nn.Linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid(),
        nn.Linear(84, 10),
    )  # fmt: skip


def bare_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images, labels, size: int) -> float:
    """One epoch as the textbook writes it; returns images per second."""
    model.train()
    criterion = nn.CrossEntropyLoss()
    order = torch.randperm(len(labels))
    total_loss = right = 0.0
    start = time.perf_counter()
    for first in range(0, len(labels), size):
        chosen = order[first : first + size]
        x, y = images[chosen].float().div_(255), labels[chosen]
        optimizer.zero_grad()
        output = model(x)
        loss = criterion(output, y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            total_loss += loss * len(y)
            right += (output.argmax(1) == y).sum()
    float(total_loss), float(right)
    return len(labels) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--arm", choices=ARMS, default="batch")
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = load_fashion_mnist()
    config = TrainConfig(arms=(arguments.arm,), backend=arguments.backend)
    world = World(0, 1, torch.device("cpu"))
    ours = build("lenet", norm=arguments.arm, backend=arguments.backend, seed=0)
    our_optimizer = make_optimizer(ours, config)
    bare = bare_network()
    bare_optimizer = torch.optim.SGD(bare.parameters(), lr=config.lr)
    batches = Batches(data.train_images, data.train_labels, config.batch_size, seed=0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    pairs = []
    for number in range(arguments.rounds + 1):
        rate = bare_epoch(bare, bare_optimizer, data.train_images, data.train_labels, config.batch_size)
        result = train_epoch(
            ours, our_optimizer, scaler, batches.epoch(number), config, world, 0, 1, lambda *_: None
        )
        if number:  # the first pair warms up
            pairs.append((rate, result.images_per_second))
            ratio = result.images_per_second / rate
            print(f"bare {rate:8.0f}  ours {result.images_per_second:8.0f}  ratio {ratio:.3f}")
    bare_rate, our_rate = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(ours / bare for bare, ours in pairs)
    print(
        f"arm {arguments.arm}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE')}: "
        f"medians bare {bare_rate:.0f}, ours {our_rate:.0f} images/s, ratio {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
