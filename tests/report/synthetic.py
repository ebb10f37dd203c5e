"""Made-up runs with the shape of real ones: the report is tested without training anything."""

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from batchnorm.records import QUANTILE_LEVELS, EpochRecord, LayerRecord, RunRecord

LENET = {"norm1": 6, "norm2": 16, "norm3": 120, "norm4": 84}
# Standard normal quantiles at QUANTILE_LEVELS.
NORMAL = (-2.326, -1.645, -0.674, 0.0, 0.674, 1.645, 2.326)


def run(
    *,
    arms: Sequence[str] = ("none", "batch"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    layers: dict[str, int] = LENET,
    data: Any = "fashion-mnist",
    diverged: Iterable[tuple[str, int]] = (),
    **config: Any,
) -> RunRecord:
    """A run record; ``diverged`` pairs (arm, seed) have NaN from epoch 3 on."""
    assert len(NORMAL) == len(QUANTILE_LEVELS)
    rng = random.Random(0)
    pairs = [(arm, seed) for arm in arms for seed in seeds]
    rows = [_epoch(rng, arm, seed, e) for arm, seed in pairs for e in range(1, epochs + 1)]
    rows = [_diverge(row) if (row.arm, row.seed) in set(diverged) and row.epoch >= 3 else row for row in rows]
    states = [
        _layer(rng, arm, seed, epoch, name, channels, depth)
        for arm, seed in pairs
        for epoch in range(epochs + 1)
        for depth, (name, channels) in enumerate(layers.items())
    ]
    settings = {
        "model": "lenet",
        "arms": list(arms),
        "seeds": list(seeds),
        "epochs": epochs,
        "batch_size": 256,
        "lr": 1.0,
        "optimizer": "sgd",
        "clip": None,
        "deterministic": False,
        "backend": "auto",
        **config,
    }
    environment = {
        "batchnorm": "0.1.0",
        "torch": "2.13.0",
        "processor": "A processor with a rather long name @ 2.60GHz",
        "threads": 2,
        "command": "batchnorm train --seeds 0-2",
        "data": data,
    }
    return RunRecord("20250102-101500-lenet", settings, environment, data, tuple(rows), tuple(states))


def _epoch(rng: random.Random, arm: str, seed: int, epoch: int) -> EpochRecord:
    if arm == "none":
        loss = 0.45 + 1.85 / (1 + math.exp(1.2 * (epoch - 5.5))) + rng.gauss(0, 0.02)
        train = 0.85 - 0.75 / (1 + math.exp(1.2 * (epoch - 5.5))) + rng.gauss(0, 0.006)
        running = recalibrated = train - 0.01
    else:
        loss = 0.25 + 0.55 / epoch + rng.gauss(0, 0.005)
        train = 0.905 - 0.17 / epoch + rng.gauss(0, 0.002)
        recalibrated = train - 0.015 + rng.gauss(0, 0.004)
        running = recalibrated - abs(rng.gauss(0, 0.09))
    return EpochRecord(arm, seed, epoch, loss, train, running, recalibrated, rng.gauss(15500, 300))


def _diverge(row: EpochRecord) -> EpochRecord:
    return dataclasses.replace(row, loss=math.nan, train_accuracy=0.1)


def _layer(
    rng: random.Random, arm: str, seed: int, epoch: int, layer: str, channels: int, depth: int
) -> LayerRecord:
    spread = (0.4 + 0.35 * math.sqrt(epoch)) * (1 + depth % 4) * (0.6 if arm == "none" else 1.0)
    middle = 0.4 * math.sin(depth + epoch / 3) * spread
    skew = 1 + 0.4 * math.sin(depth)
    quantiles = tuple(middle + spread * q * (skew if q > 0 else 1) for q in NORMAL)
    if arm == "none":
        return LayerRecord(arm, seed, epoch, layer, quantiles)
    means = [rng.gauss(middle, spread) for _ in range(channels)]
    variances = [spread**2 * rng.uniform(0.3, 2.0) for _ in range(channels)]
    drift = math.sqrt(epoch) / 4
    return LayerRecord(
        arm,
        seed,
        epoch,
        layer,
        quantiles,
        running_mean=tuple(m * 0.85 + rng.gauss(0, 0.2 * spread) for m in means),
        running_var=tuple(v * rng.uniform(0.6, 1.3) for v in variances),
        population_mean=tuple(means),
        population_var=tuple(variances),
        weight=tuple(1 + drift * rng.gauss(0.4, 0.5) for _ in range(channels)),
        bias=tuple(drift * rng.gauss(0, 0.6) for _ in range(channels)),
    )


def unfinished() -> RunRecord:
    """Killed on the way: arm batch has run two of its ten epochs and has no second seed yet."""
    whole = run()
    epochs = tuple(row for row in whole.epochs if row.arm == "none" or (row.seed == 0 and row.epoch <= 2))
    layers = tuple(row for row in whole.layers if row.arm == "none" or (row.seed == 0 and row.epoch <= 2))
    return dataclasses.replace(whole, epochs=epochs, layers=layers)


def deep(seeds: Sequence[int] = (0, 1), epochs: int = 40) -> RunRecord:
    """The size of a ResNet-110: 109 layers of 16, 32 and 64 channels."""
    layers = {f"blocks.{i}.norm": (16, 32, 64)[i // 37] for i in range(109)}
    return run(seeds=seeds, epochs=epochs, layers=layers, model="resnet110")
