"""C05: a batch of one teaches nothing; batches must be large enough."""

import operator
from typing import Any

import torch

from batchnorm.nn import BatchNorm1d
from batchnorm.records import Figure
from batchnorm.study.results import PerSeed, Results, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

SIZES = (1, 2, 4, 16, 64, 256)
# kinds, with the batch sizes that they can be trained with
KINDS = {
    "none": SIZES,
    "group:2": SIZES,
    "frozen": SIZES,
    "batch": SIZES[1:],
    "renorm": SIZES[1:],
    "ghost:16": (64, 256),
}


def batch_of_one(*, seed: int) -> dict[str, Any]:
    """A dense layer's batch normalization, given one sample; a batch of equal ones has the same statistics.

    Returns:
        ``from_beta``: how far the output is from beta; ``gradient``: the largest gradient by the input;
        ``refused``: 1 if the layer refuses a batch of exactly one.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = BatchNorm1d(120, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
    sample = torch.randn(1, 120, generator=generator, dtype=torch.float64)
    batch = sample.repeat(4, 1).requires_grad_()
    output = layer(batch)
    (output * torch.randn(4, 120, generator=generator, dtype=torch.float64)).sum().backward()
    assert batch.grad is not None
    try:
        layer(sample)
        refused = 0
    except ValueError:
        refused = 1
    return {
        "from_beta": (output - layer.bias).abs().max().item(),
        # the four are one sample: its gradient is the sum of theirs
        "gradient": batch.grad.sum(0).abs().max().item(),
        "refused": refused,
    }


def _trials(plan: Plan) -> list[Trial]:
    seen = 3200 if plan.quick else 48000
    cells = [
        {"norm": kind, "batch_size": size, "steps": seen // size, "lr": 0.1 * size / 64}
        for kind, sizes in KINDS.items()
        for size in (sizes if not plan.quick else [size for size in sizes if size != 4])
    ]
    exact = [Trial.of(batch_of_one, seed) for seed in plan.seeds]
    return [*exact, *lenet_trials(plan, cells, quick_steps=0, full_steps=0)]


def _read(results: Results, plan: Plan) -> Reading:
    exact = results.where("batch_of_one")
    trained = results.where("train_lenet")

    def at(kind: str, size: int) -> PerSeed:
        return trained.per_seed("accuracy", norm=kind, batch_size=size)

    def drop(kind: str) -> PerSeed:
        large, small = at(kind, 64), at(kind, 2)
        return {seed: large[seed] - small[seed] for seed in large if seed in small}

    return Reading(
        effects={
            "output is beta": [row.result["from_beta"] for row in exact.rows],
            "no gradient": [row.result["gradient"] for row in exact.rows],
            "refused": [row.result["refused"] for row in exact.rows],
            "pairs are too small": compare(operator.sub, drop("batch"), drop("none")),
            "pairs lose to groups": compare(operator.sub, at("group:2", 2), at("batch", 2)),
            "renormalization helps": compare(operator.sub, at("renorm", 2), at("batch", 2)),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by batch size, the same number of images seen",
                mark="line",
                x="batch size",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(
                    row for kind in KINDS for row in trained.points("batch_size", "accuracy", kind, norm=kind)
                ),
                x_scale="log",
            )
        ],
    )


STUDY = Study(
    id="c05",
    name="small-batches",
    claim="A batch of one teaches nothing; batches must be large enough.",
    hypothesis="With one sample a dense layer's output is beta whatever the input, and the gradient by the "
    "input is 0. From pairs LeNet with batch normalization learns less than from batches of 64, by more than "
    "a network without loses; GroupNorm, which knows no batch, and renormalization recover some of it.",
    held_equal="Initial weights, images seen, learning rate in proportion to the batch (0.1 at 64), ReLU. "
    "Frozen layers keep the statistics of the network as it began.",
    measure="Float64 output and gradient at batch one; test accuracy (recalibrated statistics, so that only "
    "the training counts) over batch sizes.",
    against="An output that depends on the input; or pairs that cost batch norm no more than others.",
    conditions=(
        Condition("output is beta", "largest distance of the output from beta", "below", 1e-12, exact=True),
        Condition("no gradient", "largest gradient by the one sample", "below", 1e-10, exact=True),
        Condition("refused", "1: the layer refuses to train on one sample", "above", 0.5, exact=True),
        Condition(
            "pairs are too small", "accuracy lost from 64 to 2, batch norm's less that without", "above"
        ),
        Condition("pairs lose to groups", "accuracy at batch 2, GroupNorm less batch norm", "above"),
        Condition("renormalization helps", "accuracy at batch 2, renormalization less batch norm", "above"),
    ),
    trials=_trials,
    read=_read,
)
