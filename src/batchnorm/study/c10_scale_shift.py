"""C10: scale and shift give back what normalizing took."""

import operator

from batchnorm.records import Figure
from batchnorm.study.results import Results, compare
from batchnorm.study.sizes import lenet_trials
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

NORMS = ("batch", "no-affine", "fixed-gamma", "fixed-beta", "mean-only", "var-only", "none")
ACTIVATIONS = {"sigmoid": 1.0, "relu": 0.1}  # with the learning rate


def _trials(plan: Plan) -> list[Trial]:
    cells = [
        {"norm": norm, "activation": activation, "lr": lr}
        for activation, lr in ACTIVATIONS.items()
        for norm in NORMS
    ]
    return lenet_trials(plan, cells, quick_steps=188, full_steps=1876)


def _read(results: Results, plan: Plan) -> Reading:
    def less(norm: str, activation: str) -> list[float]:
        whole = results.per_seed("accuracy", norm="batch", activation=activation)
        return compare(operator.sub, whole, results.per_seed("accuracy", norm=norm, activation=activation))

    return Reading(
        effects={
            "both, sigmoid": less("no-affine", "sigmoid"),
            "both, ReLU": less("no-affine", "relu"),
            "gamma": less("fixed-gamma", "sigmoid"),
            "beta": less("fixed-beta", "sigmoid"),
            "the mean alone": less("mean-only", "sigmoid"),
            "the variance alone": less("var-only", "sigmoid"),
        },
        figures=[
            Figure(
                name="accuracy",
                title="Test accuracy by what of batch normalization is left",
                mark="dot",
                x="what is left",
                y="test accuracy",
                band="95 % t interval over seeds",
                rows=tuple(
                    row
                    for activation in ACTIVATIONS
                    for row in results.points("norm", "accuracy", activation, activation=activation)
                ),
                x_scale="nominal",
            )
        ],
    )


STUDY = Study(
    id="c10",
    name="scale-shift",
    claim="Scale and shift (gamma and beta) give back the freedom that normalizing took away.",
    hypothesis="Without gamma and beta the network ends at a lower accuracy, with either activation; each of "
    "the two is needed, and so are both halves of the normalization, mean and variance.",
    held_equal="Initial weights, order of batches, number of steps, batches of 64; learning rate 1.0 with "
    "sigmoid, as in the textbook, and 0.1 with ReLU.",
    measure="Test accuracy of whole batch normalization less that of the variant, recalibrated statistics.",
    against="A variant that is as good: a difference whose interval reaches 0.",
    conditions=(
        Condition("both, sigmoid", "accuracy, whole less without gamma and beta, sigmoid", "above"),
        Condition("both, ReLU", "accuracy, whole less without gamma and beta, ReLU", "above"),
        Condition("gamma", "accuracy, whole less gamma fixed at 1, sigmoid", "above"),
        Condition("beta", "accuracy, whole less beta fixed at 0, sigmoid", "above"),
        Condition("the mean alone", "accuracy, whole less mean-only normalization, sigmoid", "above"),
        Condition("the variance alone", "accuracy, whole less variance-only normalization, sigmoid", "above"),
    ),
    trials=_trials,
    read=_read,
)
