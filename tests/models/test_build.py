import pickle

import numpy as np
import pytest
import torch

from batchnorm.models import MODELS, NORMS, build
from batchnorm.nn.statistics import Batch

IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def weights(model):
    return [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_gives_ten_logits(name, norm):
    with torch.no_grad():
        assert build(name, norm=norm)(IMAGES[:2]).shape == (2, 10)


# LeNet by hand: 156 + 2416 + 30840 + 10164 + 850, and 2 · (6 + 16 + 120 + 84) of batch norm. The residual
# networks: 0.27, 0.85 and 1.7 million in table 6 of He et al., of which the one grey channel saves 288.
@pytest.mark.parametrize(
    ("name", "norm", "count"),
    [
        ("lenet", "none", 44_426),
        ("lenet", "batch", 44_878),
        ("resnet20", "batch", 269_434),
        ("resnet56", "torch", 852_730),
        ("resnet110", "scratch", 1_727_674),
    ],
)
def test_parameters_are_as_many_as_published(name, norm, count):
    assert parameters(build(name, norm=norm)) == count


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_equal_seeds_give_equal_weights_whatever_the_norm(name):
    reference = weights(build(name, norm="none", seed=7))
    for norm in NORMS:
        for ours, theirs in zip(weights(build(name, norm=norm, seed=7)), reference, strict=True):
            assert torch.equal(ours, theirs)
    assert not torch.equal(weights(build(name, norm="none", seed=8))[0], reference[0])


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
def test_a_seed_may_be_an_integer_of_any_kind(integer):
    ours, theirs = (weights(build("lenet", seed=seed))[0] for seed in (integer(3), 3))
    assert torch.equal(ours, theirs)


def test_the_largest_seed_is_one():
    build("lenet", norm="none", seed=2**64 - 1)


def test_lenets_biases_are_equal_too():
    biases = []
    for number, norm in enumerate(NORMS):
        torch.manual_seed(number)  # which must not matter
        biases.append(build("lenet", norm=norm, seed=7).dense1.bias)
    assert all(torch.equal(bias, biases[0]) for bias in biases)
    assert not torch.equal(build("lenet", seed=8).dense1.bias, biases[0])


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_building_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    build(name, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["batch", "scratch"])
@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_our_layers_compute_what_torchs_do(name, norm):
    # In float64: float32's rounding moves a ReLU's input across 0 now and then.
    ours, torchs = build(name, norm=norm, seed=3).double(), build(name, norm="torch", seed=3).double()
    images = IMAGES.double()
    for model in (ours, torchs):
        for _ in range(3):  # several steps, so that the running statistics take part
            model(images).square().mean().backward()
    torch.testing.assert_close(ours(images), torchs(images), rtol=1e-9, atol=1e-9)
    for our, their in zip(weights(ours), weights(torchs), strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours.eval()(images), torchs.eval()(images), rtol=1e-9, atol=1e-9)


def test_training_and_prediction_differ_only_with_a_norm():
    for norm in NORMS:
        model = build("lenet", norm=norm)
        same = torch.equal(model(IMAGES), model.eval()(IMAGES))
        assert same == (norm == "none")


def test_another_activation_and_statistics_reach_the_layers():
    model = build("lenet", norm="batch", activation="relu", backend="eager", stats=Batch())
    assert (model.norm3.activation, model.norm3.backend, model.norm3.stats) == ("relu", "eager", Batch())
    assert build("lenet", norm="torch", activation="tanh").norm1.activation == "tanh"
    assert build("lenet", norm="scratch", backend="torch").norm1.backend == "eager"


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_survives_pickling(norm):
    model = build("lenet", norm=norm).eval()
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"name": "alexnet"},
            "name expected one of lenet, resnet20, resnet56, resnet110, got 'alexnet'",
        ),
        ({"norm": "layer"}, "models: norm expected one of none, batch, torch, scratch, got 'layer'"),
        ({"backend": "fast"}, "batch_norm: backend expected one of auto, eager, native, torch, got 'fast'"),
        (
            {"norm": "none", "backend": "fast"},
            "batch_norm: backend expected one of",
        ),
        ({"seed": -1}, "models: seed expected an integer from 0 to 2**64 - 1, got -1"),
        ({"seed": 2**64}, "models: seed expected an integer from 0 to 2**64 - 1, got 18446744073709551616"),
        ({"seed": 1.5}, "models: seed expected an integer from 0 to 2**64 - 1, got 1.5"),
        ({"seed": "1"}, "models: seed expected an integer from 0 to 2**64 - 1, got '1'"),
        ({"seed": None}, "models: seed expected an integer from 0 to 2**64 - 1, got None"),
        ({"activation": "swish"}, "activation expected one of None, relu"),
        ({"norm": "none", "activation": "swish"}, "activation expected one of None, relu"),
        ({"norm": "torch", "stats": Batch()}, r"models: stats expected None for norm 'torch', got Batch()"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(arguments, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        build(**{"name": "lenet", **arguments})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
