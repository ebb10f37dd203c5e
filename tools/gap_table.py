"""Measure the calibrated gap (BN027) and the independence ratio (BN026) on networks in known states.

The table of docs/doctor.md: LeNet and ResNet-20 on Fashion-MNIST, healthy ones and ones that were made sick,
with three seeds. An hour and more on one core.

Usage: ``python tools/gap_table.py NETWORK SEED [STATE] >> docs/results/gap.jsonl`` for each network and seed,
all states or those whose name holds a word, then
``python tools/gap_table.py docs/results/gap.jsonl``.
"""

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from batchnorm.data import Batches, FashionMNIST, load_fashion_mnist
from batchnorm.doctor.examine import examine
from batchnorm.doctor.gap import excess_of, independence_of
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import all_rules
from batchnorm.doctor.settings import Settings
from batchnorm.models import build
from batchnorm.surgery import population_statistics, swapped_statistics
from batchnorm.train.epoch import evaluate

PROBE, TEST, MEASURED = 20, 1000, 2000
RATES = {"lenet": 1.0, "resnet20": 0.1}
STEPS = {"lenet": 300, "resnet20": 150}
SLOW_AND_FAST = (0.99, 0.01, 0.001)


def norms(model: nn.Module) -> list[nn.Module]:
    """Batch-norm layers in order."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class Averages:
    """Running statistics under another momentum, beside the layers' own: training does not feel them."""

    def __init__(self, model: nn.Module, momentum: float) -> None:
        self.momentum, self.state = momentum, []
        for layer in norms(model):
            mean, var = torch.zeros(layer.num_features), torch.ones(layer.num_features)
            self.state.append((mean, var))
            layer.register_forward_pre_hook(
                lambda m, args, mean=mean, var=var: self._move(args[0], mean, var)
            )

    @torch.no_grad()
    def _move(self, input: Tensor, mean: Tensor, var: Tensor) -> None:
        dims = [d for d in range(input.dim()) if d != 1]
        mean.lerp_(input.mean(dims), self.momentum)
        var.lerp_(input.var(dims), self.momentum)

    def put_into(self, model: nn.Module) -> nn.Module:
        """The model with these statistics."""
        for layer, (mean, var) in zip(norms(model), self.state, strict=True):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
            layer.momentum = self.momentum
        return model


def training(data: FashionMNIST, size: int, seed: int) -> Batches:
    """Shuffled batches of training images."""
    return Batches(data.train_images, data.train_labels, size, seed=seed, drop_last=True)


def probe(batches: Batches) -> list[tuple[Tensor, Tensor]]:
    """Batches that the training did not see in this order."""
    return [batch for _, batch in zip(range(PROBE), batches.epoch(1000), strict=False)]


def by_class(data: FashionMNIST) -> list[tuple[Tensor, Tensor]]:
    """Batches of one class each."""
    order = [
        data.train_labels.eq(n % 10).nonzero()[64 * (n // 10) : 64 * (n // 10) + 64, 0] for n in range(PROBE)
    ]
    return [(data.train_images[rows].float() / 255, data.train_labels[rows]) for rows in order]


def train(
    name: str, batches: list[tuple[Tensor, Tensor]] | Batches, seed: int, falls: bool = True
) -> tuple[nn.Module, list[Averages]]:
    """A network after some steps, at a rate that falls to 0 or stays, and what other momenta would keep."""
    steps, model = STEPS[name], build(name, norm="torch", seed=seed)
    watched = copy.deepcopy(model)
    averages = [Averages(watched, momentum) for momentum in SLOW_AND_FAST]
    optimizer = torch.optim.SGD(watched.parameters(), RATES[name])
    for step, (x, y) in zip(range(steps), _again(batches), strict=False):
        optimizer.param_groups[0]["lr"] = RATES[name] * (1 - step / steps * falls)
        optimizer.zero_grad()
        nn.functional.cross_entropy(watched(x), y).backward()
        optimizer.step()
    model.load_state_dict(watched.state_dict())
    return model, averages


def _again(batches: list[tuple[Tensor, Tensor]] | Batches) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches


@torch.no_grad()
def moved(model: nn.Module, share: float) -> nn.Module:
    """A copy whose weights moved at random after the statistics were measured."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight += share * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=generator)
    return model


@torch.no_grad()
def after(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy that was shown one more batch in training mode."""
    model = copy.deepcopy(model).train()
    model(x)
    return model


def states(
    name: str, seed: int, data: FashionMNIST
) -> Iterator[tuple[str, nn.Module, list[tuple[Tensor, Tensor]]]]:
    """Networks in known states, with the batches to probe them on."""
    seen = {size: probe(training(data, size, seed)) for size in (2, 8, 64, 256)}
    model, averages = train(name, training(data, 64, seed), seed)
    yield "healthy, trained and probed at B = 64", model, seen[64]
    for size in (8, 2):
        small, _ = train(name, training(data, size, seed), seed)
        yield f"healthy, trained and probed at B = {size}", small, seen[size]
        yield f"trained at B = {size}, probed at 64", small, seen[64]
    for kept in averages:
        yield (
            f"momentum {kept.momentum:g}, {STEPS[name]} steps",
            kept.put_into(copy.deepcopy(model)),
            seen[64],
        )
    for share in (0.05, 0.2, 0.4):
        yield f"weights moved {share:.0%}", moved(model, share), seen[64]
    fresh = copy.deepcopy(model)
    for layer in norms(fresh):
        layer.reset_running_stats()
    yield "statistics reset", fresh, seen[64]
    x, _ = seen[64][0]
    one = x.clone()
    one[0] *= 100
    yield "one image of 64 times 100, one step", after(model, one), seen[64]
    yield "whole batch times 1000, one step", after(model, x * 1000), seen[64]
    running, averages = train(name, training(data, 64, seed), seed, falls=False)
    yield "rate kept to the end", running, seen[64]
    yield "rate kept to the end, probed at 256", running, seen[256]
    for kept in averages[1:2]:
        slow = kept.put_into(copy.deepcopy(running))
        yield f"rate kept to the end, momentum {kept.momentum:g}", slow, seen[64]
    classes = by_class(data)
    yield "trained and probed on one class a batch", train(name, classes, seed)[0], classes


def measure(model: nn.Module, batches: list[tuple[Tensor, Tensor]], data: FashionMNIST) -> dict[str, object]:
    """What the doctor measures, what it says, and the accuracy that a person sees."""
    patient = Patient(model, None, batches, Settings(), PROBE)
    findings, _, _ = examine(patient, all_rules())
    gaps = list(patient.gaps.values())
    images = Batches(data.test_images[:TEST], data.test_labels[:TEST], 500)
    accuracy = evaluate(model, images)
    sample = Batches(data.train_images[:MEASURED], data.train_labels[:MEASURED], 500)
    with swapped_statistics(model, population_statistics(model, sample)):
        measured = evaluate(model, images)
    return {
        "accuracy": accuracy,
        "recalibrated": measured,
        "ratio": [gap.ratio for gap in gaps],
        "size": [gap.size for gap in gaps],
        "worst": [gap.worst for gap in gaps],
        "independence": [independence_of(series) for series in patient.training.series.values()],
        "findings": sorted({f"{f.code} {f.severity}" for f in findings if f.severity != "info"}),
    }


def table(rows: list[dict]) -> str:
    """Markdown: a row a network and state, ranges over layers and seeds."""
    lines = [
        "| network | state | accuracy | recalibrated | median ratio | worst channel | all layers | R (BN026) "
        "| errors and warnings |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for network, state in dict.fromkeys((row["network"], row["state"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["state"]) == (network, state)]
        spans = [_span([v for row in mine for v in row[key]]) for key in ("ratio", "independence")]
        worst = max(v for row in mine for v in row["worst"])
        said = "; ".join(dict.fromkeys(", ".join(row["findings"]) or "none" for row in mine))
        accuracy = _span([row["accuracy"] for row in mine], ".2f")
        measured = _span([row["recalibrated"] for row in mine if "recalibrated" in row], ".2f")
        together = _span([excess_of(zip(row["ratio"], row["size"], strict=True)) for row in mine], ".2f")
        lines.append(
            f"| {network} | {state} | {accuracy} | {measured} | {spans[0]} | {worst:.3g} | {together} "
            f"| {spans[1]} | {said} |"
        )
    return "\n".join(lines)


def _span(values: list[float], form: str = ".3g") -> str:
    known = [value for value in values if value == value]
    return f"{min(known):{form}} to {max(known):{form}}" if known else "-"


def main() -> None:
    """Measure one network with one seed, or print the table."""
    if len(sys.argv) < 3:
        print(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]))
        return
    name, seed = sys.argv[1], int(sys.argv[2])
    data = load_fashion_mnist()
    for state, model, batches in states(name, seed, data):
        if not all(word in state for word in sys.argv[3:]):
            continue
        row = {"network": name, "seed": seed, "state": state, **measure(model, batches, data)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
