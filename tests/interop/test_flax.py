"""Numbers of real Flax: predictions, and the statistics of further training, both ways."""

import numpy as np
import pytest
import torch

from batchnorm.interop import from_flax, to_flax

jax = pytest.importorskip("jax", reason="pip install --group interop")
linen = pytest.importorskip("flax.linen", reason="pip install --group interop")

SHAPES = {0: (16,), 1: (8, 5), 2: (6, 4, 5), 3: (4, 3, 2, 2)}  # batch and space; channels come last
ALL = pytest.mark.parametrize("dims", SHAPES)
SWITCHES = pytest.mark.parametrize(
    ("scale", "bias"), [(True, True), (True, False), (False, True), (False, False)]
)


def data(dims, seed=0):
    return (np.random.default_rng(seed).normal(3, 2, (*SHAPES[dims], 3))).astype(np.float32)


def trained(dims, scale=True, bias=True):
    """The variables of a Flax layer after two steps, with scales and shifts that are not 1 and 0."""
    layer = linen.BatchNorm(momentum=0.8, epsilon=1e-4, use_scale=scale, use_bias=bias)
    variables = layer.init(jax.random.key(0), data(dims), use_running_average=False)
    for seed in (0, 1):
        variables = step(layer, variables, data(dims, seed))
    params = jax.tree.map(lambda values: values + 0.5, variables.get("params", {}))
    return layer, {"params": params, "batch_stats": variables["batch_stats"]}


def step(layer, variables, x):
    _, changed = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    return {**variables, **changed}


def predict(layer, variables, x):
    return channels_first(layer.apply(variables, x, use_running_average=True))


def channels_first(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


@ALL
@SWITCHES
def test_from_flax_predicts_the_same(dims, scale, bias):
    theirs, variables = trained(dims, scale, bias)
    ours = from_flax(variables, dims, momentum=0.8, epsilon=1e-4)
    x = data(dims, 2)
    torch.testing.assert_close(ours(channels_first(x)), predict(theirs, variables, x), rtol=1e-5, atol=1e-5)


@ALL
def test_training_goes_on_with_the_statistics_flax_would_have(dims):
    theirs, variables = trained(dims)
    count = int(np.prod(SHAPES[dims]))
    ours = from_flax(variables, dims, momentum=0.8, epsilon=1e-4, count=count).train()
    x = data(dims, 2)
    expected = step(theirs, variables, x)["batch_stats"]
    ours(channels_first(x))
    statistics = to_flax(ours, count=count)[1]["batch_stats"]
    for name in ("mean", "var"):
        np.testing.assert_allclose(statistics[name], expected[name], rtol=1e-5, atol=1e-5)


@ALL
@SWITCHES
def test_to_flax_predicts_the_same(dims, scale, bias):
    _, variables = trained(dims, scale, bias)
    ours = from_flax(variables, dims, momentum=0.8, epsilon=1e-4)
    options, given = to_flax(ours)
    assert (options["use_scale"], options["use_bias"]) == (scale, bias)
    x = data(dims, 3)
    torch.testing.assert_close(
        ours(channels_first(x)), predict(linen.BatchNorm(**options), given, x), rtol=1e-5, atol=1e-5
    )
