"""Numbers of real Keras: predictions, and the statistics of further training, both ways."""

import os

import numpy as np
import pytest
import torch

from batchnorm.interop import from_keras, to_keras

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="pip install --group interop")
# Keras's own, in its conversions between arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = {0: (16,), 1: (8, 5), 2: (6, 4, 5), 3: (4, 3, 2, 2)}  # batch and space; channels come last
ALL = pytest.mark.parametrize("dims", SHAPES)
SWITCHES = pytest.mark.parametrize(
    ("scale", "center"), [(True, True), (True, False), (False, True), (False, False)]
)


def data(dims, seed=0):
    return (np.random.default_rng(seed).normal(3, 2, (*SHAPES[dims], 3))).astype(np.float32)


def trained(dims, **options):
    """A Keras layer after two steps, with scales and shifts that are not 1 and 0."""
    layer = keras.layers.BatchNormalization(momentum=0.8, **options)
    for seed in (0, 1):
        layer(data(dims, seed), training=True)
    weights = layer.get_weights()
    layer.set_weights([weight + 0.5 for weight in weights[:-2]] + weights[-2:])
    return layer


def channels_first(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def numpy(output):
    return keras.ops.convert_to_numpy(output)


@ALL
@SWITCHES
def test_from_keras_predicts_the_same(dims, scale, center):
    theirs = trained(dims, scale=scale, center=center)
    ours = from_keras(theirs.get_config(), theirs.get_weights(), dims)
    x = data(dims, 2)
    expected = channels_first(numpy(theirs(x, training=False)))
    torch.testing.assert_close(ours(channels_first(x)), expected, rtol=1e-5, atol=1e-5)


@ALL
def test_training_goes_on_with_the_statistics_keras_would_have(dims):
    theirs = trained(dims)
    count = int(np.prod(SHAPES[dims]))
    ours = from_keras(theirs.get_config(), theirs.get_weights(), dims, count=count).train()
    x = data(dims, 2)
    theirs(x, training=True)
    ours(channels_first(x))
    _, weights = to_keras(ours, count=count)
    for our, their in zip(weights, theirs.get_weights(), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


@ALL
@SWITCHES
def test_to_keras_predicts_the_same(dims, scale, center):
    ours = from_keras(trained(dims, scale=scale, center=center).get_config(),
                      trained(dims, scale=scale, center=center).get_weights(), dims)  # fmt: skip
    options, weights = to_keras(ours)
    assert (options["scale"], options["center"]) == (scale, center)
    theirs = keras.layers.BatchNormalization(**options)
    x = data(dims, 3)
    theirs.build(x.shape)
    theirs.set_weights(weights)
    expected = channels_first(numpy(theirs(x, training=False)))
    torch.testing.assert_close(ours(channels_first(x)), expected, rtol=1e-5, atol=1e-5)
