"""C07: the moving average in the textbook's example, and its lag as a curve."""

from typing import Any

import torch

from batchnorm.nn import BatchNorm1d
from batchnorm.records import Figure
from batchnorm.study.results import Results
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

SAMPLES, BATCH = 30, 5
MOMENTA = (0.01, 0.03, 0.1, 0.3, 0.5, 0.9)
STEPS = 200


def worked_example(*, seed: int) -> dict[str, Any]:
    """Thirty samples, the numbers 1 to 30, in batches of five, through a layer with momentum 0.1."""
    samples = torch.arange(1.0, SAMPLES + 1, dtype=torch.float64).view(-1, 1)
    layer = BatchNorm1d(1, momentum=0.1, dtype=torch.float64)
    means, running, by_hand = [], [], [0.0]
    for batch in samples.view(-1, BATCH, 1):
        layer(batch)
        assert layer.running_mean is not None
        means.append(sum(batch.flatten().tolist()) / BATCH)
        by_hand.append(0.9 * by_hand[-1] + 0.1 * means[-1])
        running.append(layer.running_mean.item())
    return {"means": means, "running": running, "by_hand": by_hand[1:]}


def lag(*, seed: int, momentum: float) -> dict[str, Any]:
    """A layer's running mean after its input's mean has jumped from 0 to 1, batch by batch.

    Returns:
        ``reached``: the share of the jump made after each batch; ``half_life``: batches to half of it.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(BATCH, 1, generator=generator, dtype=torch.float64)
    batch = 1 + noise - noise.mean()
    layer = BatchNorm1d(1, momentum=momentum, dtype=torch.float64)
    reached = []
    for _ in range(STEPS):
        layer(batch)
        assert layer.running_mean is not None
        reached.append(layer.running_mean.item())
    half_life = next(step for step, share in enumerate(reached, 1) if share >= 0.5)
    return {"reached": reached, "half_life": half_life}


def _trials(plan: Plan) -> list[Trial]:
    # no chance in them: one seed says all
    return [
        Trial.of(worked_example, seed=0),
        *(Trial.of(lag, seed=0, momentum=momentum) for momentum in MOMENTA),
    ]


def _read(results: Results, plan: Plan) -> Reading:
    curves = results.where("lag")
    example = [row.result for row in results.where("worked_example").rows]
    by_momentum = {row.settings["momentum"]: row.result for row in curves.rows}
    formula = [
        abs(share - (1 - (1 - momentum) ** step))
        for momentum, result in by_momentum.items()
        for step, share in enumerate(result["reached"], 1)
    ]
    rows = [
        {"series": f"momentum {momentum}", "x": step, "mean": share, "low": share, "high": share}
        for momentum, result in by_momentum.items()
        for step, share in enumerate(result["reached"], 1)
        if step <= 20 or step % 10 == 0
    ]
    notes = [
        f"The means of the six batches are {', '.join(f'{mean:g}' for mean in each['means'])}; "
        f"the running mean goes {', '.join(f'{mean:.6g}' for mean in each['running'])}, "
        f"while the mean of all samples is {sum(each['means']) / len(each['means']):g}."
        for each in example
    ]
    if by_momentum:
        lives = ", ".join(
            f"{result['half_life']} with momentum {momentum}" for momentum, result in by_momentum.items()
        )
        notes.append(f"Batches until half of a change is followed: {lives}.")
    digits = [
        abs(ours - hand)
        for each in example
        for ours, hand in zip(each["running"], each["by_hand"], strict=True)
    ]
    short = [each["running"][-1] / (sum(each["means"]) / len(each["means"])) for each in example]
    return Reading(
        effects={
            "six means": [len(each["means"]) for each in example],
            "to the digit": [max(digits)] if digits else [],
            "lag": [max(formula)] if formula else [],
            "short of the mean": short,
        },
        figures=[
            Figure(
                name="lag",
                title="Share of a change in the batch mean that the running mean has followed",
                mark="line",
                x="batches since the change",
                y="share",
                band="none, exact",
                rows=tuple(rows),
            )
        ],
        notes=notes,
    )


STUDY = Study(
    id="c07",
    name="moving-average",
    claim="Thirty samples in batches of five give six means, of which the moving average, with momentum 0.1, "
    "gives the new one the weight 0.1.",
    hypothesis="The layer's running mean is 0.9 · old + 0.1 · new to the last digit of float64, and follows "
    "a jump of the input by the share 1 − (1 − momentum)^batches.",
    held_equal="The samples 1 to 30 in their order; for the lag, one batch with mean 1 again and again.",
    measure="The running mean after each batch, against the same arithmetic by hand and against the formula.",
    against="A difference beyond rounding; or a running mean that has reached the samples' mean after six "
    "batches, for then there would be no lag to speak of.",
    conditions=(
        Condition("six means", "thirty samples in batches of five give six means", "above", 5.5, exact=True),
        Condition("to the digit", "largest difference from doing it by hand", "below", 1e-12, exact=True),
        Condition("lag", "largest difference from 1 − (1 − momentum)^batches", "below", 1e-12, exact=True),
        Condition(
            "short of the mean",
            "share of the samples' mean that the running mean has reached after the six batches",
            "below",
            0.9,
            exact=True,
        ),
    ),
    trials=_trials,
    read=_read,
)
