"""C13: inputs should be standardized; batch normalization as the first layer does it."""

import operator

from batchnorm.records import Figure
from batchnorm.study.results import Results, compare, point
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

INPUTS = ("unit", "raw", "standard")
NETWORKS = {
    "no normalization": {"norm": "none", "input_norm": False},
    "normalized input": {"norm": "none", "input_norm": True},
    "normalized layers": {"norm": "batch", "input_norm": False},
}


def _trials(plan: Plan) -> list[Trial]:
    cells = [{"inputs": inputs, **network} for network in NETWORKS.values() for inputs in INPUTS]
    return lenet_trials(plan, cells, quick_steps=188, full_steps=938)


def _read(results: Results, plan: Plan) -> Reading:
    accuracy = {
        (name, inputs): results.per_seed("accuracy", inputs=inputs, **network)
        for name, network in NETWORKS.items()
        for inputs in INPUTS
    }
    none, repaired = (
        {inputs: accuracy[name, inputs] for inputs in INPUTS}
        for name in ("no normalization", "normalized input")
    )
    rows = [point(name, inputs, list(cell.values())) for (name, inputs), cell in accuracy.items() if cell]
    return Reading(
        effects={
            "standardizing helps": compare(operator.sub, none["standard"], none["unit"]),
            "raw pixels hurt": compare(operator.sub, none["standard"], none["raw"]),
            "a layer repairs": compare(operator.sub, repaired["raw"], none["raw"]),
            "as well as by hand": compare(operator.sub, repaired["raw"], none["standard"]),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by scale of the input",
                mark="dot",
                x="inputs",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(rows),
                x_scale="nominal",
            )
        ],
    )


STUDY = Study(
    id="c13",
    name="inputs",
    claim="Inputs should be standardized, and batch normalization as the first layer does it.",
    hypothesis="Without any normalization, LeNet learns better from standardized pixels than from pixels in "
    "[0, 1] or raw ones, 0 to 255; a batch-norm layer before the first convolution makes good for it.",
    held_equal="Initial weights, order of batches, learning rate 0.1, batches of 64, ReLU, number of steps.",
    measure="Test accuracy after the same number of steps, with recalibrated statistics.",
    against="Equal accuracy whatever the scale; or a first layer that leaves raw pixels as bad as they are.",
    conditions=(
        Condition("standardizing helps", "accuracy, standardized less [0, 1], no normalization", "above"),
        Condition("raw pixels hurt", "accuracy, standardized less raw, no normalization", "above"),
        Condition("a layer repairs", "accuracy on raw pixels, with less without the first layer", "above"),
        Condition(
            "as well as by hand",
            "accuracy, raw pixels behind the layer less standardized pixels; at most two points are lost",
            "above",
            -0.02,
        ),
    ),
    trials=_trials,
    read=_read,
)
