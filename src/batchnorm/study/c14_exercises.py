"""C14: the textbook's exercises: the bias, which layers, dropout."""

import operator
from typing import Any

import torch
import torch.nn.functional as F

from batchnorm.records import Figure
from batchnorm.study.networks import lenet
from batchnorm.study.results import PerSeed, Results, compare, point
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

PLACES = {"none": "", "first": "1", "last": "4", "convolutions": "12", "dense": "34", "all": "1234"}
DROPOUT = 0.3


def bias_gradient(*, seed: int) -> dict[str, Any]:
    """Gradient of the biases before batch normalization, over that of the same layers' weights, in float64.

    Returns:
        ``gradient``: the largest ratio; ``output``: how far the output moves when the biases do.
    """
    model = lenet("batch", seed).double()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(32, 1, 28, 28, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (32,), generator=generator)
    output = model(images)
    F.cross_entropy(output, labels).backward()  # type: ignore[no-untyped-call]
    layers: list[Any] = [model.get_submodule(name) for name in ("conv1", "conv2", "dense1", "dense2")]
    ratios = [_largest(layer.bias.grad) / _largest(layer.weight.grad) for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.bias.normal_(generator=generator)
        return {"gradient": max(ratios), "output": (model(images) - output).abs().max().item()}


def _largest(values: Any) -> float:
    return float(values.abs().max())


def _trials(plan: Plan) -> list[Trial]:
    cells: list[dict[str, Any]] = [{"norm": "batch", "at": at} for at in PLACES.values()]
    cells += [{"norm": "batch", "at": "1234", "bias": False}]
    cells += [{"norm": "batch", "at": at, "dropout": DROPOUT} for at in ("", "1234")]
    exact = [Trial.of(bias_gradient, seed) for seed in plan.seeds]
    cells = [{"bias": True, "dropout": 0.0, **cell} for cell in cells]
    return [*exact, *lenet_trials(plan, cells, quick_steps=188, full_steps=1876)]


def _read(results: Results, plan: Plan) -> Reading:
    exact = results.where("bias_gradient").rows
    trained = results.where("train_lenet")

    def accuracy(at: str, *, bias: bool = True, dropout: float = 0.0) -> PerSeed:
        return trained.per_seed("accuracy", at=at, bias=bias, dropout=dropout)

    whole, none = accuracy("1234"), accuracy("")
    cells = {name: accuracy(at) for name, at in PLACES.items()}
    cells["all, no bias"] = accuracy("1234", bias=False)
    cells["none, dropout"], cells["all, dropout"] = (accuracy(at, dropout=DROPOUT) for at in ("", "1234"))
    return Reading(
        effects={
            "no gradient": [row.result["gradient"] for row in exact],
            "no effect": [row.result["output"] for row in exact],
            "nothing lost": compare(operator.sub, cells["all, no bias"], whole),
            "all against convolutions": compare(operator.sub, whole, cells["convolutions"]),
            "all against dense": compare(operator.sub, whole, cells["dense"]),
            "in dropout's place": compare(operator.sub, whole, cells["none, dropout"]),
            "dropout beside it": compare(operator.sub, whole, cells["all, dropout"]),
            "any place helps": compare(operator.sub, cells["first"], none),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by where batch normalization stands, and beside what",
                mark="dot",
                x="places",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(point("LeNet", name, list(cell.values())) for name, cell in cells.items() if cell),
                x_scale="nominal",
            )
        ],
    )


STUDY = Study(
    id="c14",
    name="exercises",
    claim="The bias before batch normalization is redundant; every layer profits; batch normalization can "
    "take dropout's place.",
    hypothesis="The gradient of such a bias is 0 and its value has no effect, so nothing is lost without it. "
    "Batch normalization at all four places beats the convolutions' or the dense layers' alone, and beats "
    "dropout without it; with it, dropout adds nothing.",
    held_equal="Initial weights, order of batches, learning rate 0.1, batches of 64, ReLU, number of steps.",
    measure="Float64 gradient of the biases, in proportion to their layers' weights'; test accuracy, "
    "recalibrated. Dropout of 0.3 behind the dense layers.",
    against="A gradient beyond rounding; places whose batch normalization may be left out; dropout ahead.",
    conditions=(
        Condition("no gradient", "gradient of the bias over that of the weights", "below", 1e-10, exact=True),
        Condition("no effect", "change of the output when the biases change", "below", 1e-10, exact=True),
        Condition("nothing lost", "accuracy, without the biases less with", "above", -0.02),
        Condition("any place helps", "accuracy, at the first place only less nowhere", "above"),
        Condition("all against convolutions", "accuracy, all places less the convolutions' only", "above"),
        Condition("all against dense", "accuracy, all places less the dense ones only", "above"),
        Condition("in dropout's place", "accuracy, batch norm alone less dropout alone", "above"),
        Condition("dropout beside it", "accuracy, batch norm alone less with dropout too", "above"),
    ),
    trials=_trials,
    read=_read,
)
