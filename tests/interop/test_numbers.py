"""Conversions by the formulas, without the other frameworks."""

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.interop import from_flax, from_keras, to_flax, to_keras

CONFIG = {"axis": [-1], "momentum": 0.9, "epsilon": 1e-3, "scale": True, "center": True}
GAMMA, BETA, MEAN, VAR = (np.array(values, dtype=np.float32) for values in ([2, 3], [4, 5], [6, 7], [8, 9]))
ARRAYS = [GAMMA, BETA, MEAN, VAR]


def layer(**options):
    made = nn.BatchNorm2d(2, eps=1e-3, momentum=0.25, **options)
    with torch.no_grad():
        for name, values in (("weight", GAMMA), ("bias", BETA), ("running_mean", MEAN), ("running_var", VAR)):
            if getattr(made, name) is not None:
                getattr(made, name).copy_(torch.from_numpy(values))
    return made


@pytest.mark.parametrize(
    ("dims", "kind"), [(0, bn.BatchNorm1d), (1, bn.BatchNorm1d), (2, bn.BatchNorm2d), (3, bn.BatchNorm3d)]
)
def test_the_layer_has_the_rank_asked_for_and_predicts(dims, kind):
    made = from_keras(CONFIG, ARRAYS, dims)
    assert type(made) is kind
    assert not made.training
    assert made.momentum == 0.1
    assert made.eps == 1e-3
    for name, values in (("weight", GAMMA), ("bias", BETA), ("running_mean", MEAN), ("running_var", VAR)):
        assert getattr(made, name).tolist() == values.tolist()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}])
@pytest.mark.parametrize("count", [None, 10])
def test_there_and_back(options, count):
    original = layer(**options)
    config, weights = to_keras(original, count=count)
    options, variables = to_flax(original, count=count)
    from_options = {"momentum": options["momentum"], "epsilon": options["epsilon"], "count": count}
    for back in (from_keras(config, weights, count=count), from_flax(variables, **from_options)):
        assert back.eps == original.eps
        assert back.momentum == original.momentum
        state, expected = back.state_dict(), original.state_dict()
        assert list(state) == list(expected)
        for name, values in expected.items():
            torch.testing.assert_close(state[name], values)


def test_the_biased_variance_is_the_smaller_one():
    assert to_keras(layer(), count=4)[1][-1].tolist() == (VAR * 0.75).tolist()
    assert from_keras(CONFIG, ARRAYS, count=4).running_var.tolist() == pytest.approx(VAR * 4 / 3)


@pytest.mark.parametrize(
    "wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm]
)
def test_a_parametrized_layer_gives_the_values_it_has_and_no_others(wrap):
    class Counting(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.register_buffer("steps", torch.zeros(()))

    made = wrap(Counting(2)).eval()
    with torch.no_grad():
        made.running_var.mul_(2)
    weight = made.weight.tolist()
    assert to_keras(made)[1][0].tolist() == weight
    options, variables = to_flax(made)
    assert options["use_scale"]
    assert variables["params"]["scale"].tolist() == weight
    assert variables["batch_stats"].keys() == {"mean", "var"}


def test_what_is_given_is_copied():
    original = layer()
    to_keras(original, count=4)[1][-1][:] = 0
    assert original.running_var.tolist() == VAR.tolist()
    mean = MEAN.copy()
    made = from_keras(CONFIG, [GAMMA, BETA, mean, VAR])
    mean[:] = 0
    assert made.running_mean.tolist() == MEAN.tolist()


def test_a_shift_without_scale_has_a_weight_that_stays_one():
    variables = {"params": {"bias": BETA}, "batch_stats": {"mean": MEAN, "var": VAR}}
    for made in (from_flax(variables), from_keras({**CONFIG, "scale": False}, ARRAYS[1:])):
        assert (made.weight.tolist(), made.bias.tolist()) == ([1, 1], BETA.tolist())
        assert [name for name, values in made.named_parameters() if values.requires_grad] == ["bias"]
        assert (to_flax(made)[0]["use_scale"], len(to_keras(made)[1])) == (False, 3)
        assert to_flax(made)[1]["params"].keys() == {"bias"}
    learned = layer()
    torch.nn.init.ones_(learned.weight)
    assert to_keras(learned)[0]["scale"]


def test_the_entry_of_a_saved_network_holds_the_config():
    entry = {"module": "keras.layers", "class_name": "BatchNormalization", "config": CONFIG}
    made = from_keras(entry, ARRAYS)
    assert (made.eps, made.momentum) == (1e-3, 0.1)


def test_arrays_by_name_may_come_in_the_order_of_a_file():
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    by_name = dict(sorted(zip(names, ARRAYS, strict=True)))
    assert from_keras(CONFIG, by_name).weight.tolist() == GAMMA.tolist()


def test_what_keras_does_not_train_stays_as_it_is():
    made = from_keras({**CONFIG, "trainable": False}, ARRAYS).train()
    x = torch.randn(4, 2, 3, 3)
    torch.testing.assert_close(made(x), layer().eval()(x))
    assert not any(values.requires_grad for values in made.parameters())
    assert to_keras(made)[0]["trainable"] is False
    assert "trainable" not in to_keras(layer())[0]


@pytest.mark.parametrize("momentum", [0.99, 0.9, 0.999, 0.997, 0.95, 0.7, 0.3, 0.1])
def test_momentum_comes_back_as_it_was(momentum):
    made = from_keras({**CONFIG, "momentum": momentum}, ARRAYS)
    assert to_keras(made)[0]["momentum"] == momentum


def test_arrays_of_any_dtype_are_taken():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install --group interop")
    half = {name: values.astype(ml_dtypes.bfloat16) for name, values in {"mean": MEAN, "var": VAR}.items()}
    made = from_flax({"batch_stats": half})
    assert made.running_var.tolist() == half["var"].astype(np.float32).tolist()
    made = from_flax({"batch_stats": {"mean": [1, 2], "var": [9, 18]}}, count=10)
    assert made.running_var.tolist() == [10, 20]


def test_half_layers_become_arrays():
    assert to_keras(layer().bfloat16())[1][0].dtype == np.float32
    assert to_keras(layer().half())[1][0].dtype == np.float16


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: from_keras({**CONFIG, "axis": [1, 2]}, []),
            r"from_keras: axis expected one axis, got \[1",
        ),
        (lambda: from_keras({**CONFIG, "renorm": True}, []), "from_keras: renorm expected False, got True"),
        (lambda: from_keras(CONFIG, [MEAN, VAR]), "from_keras: weights expected 4 arrays, got 2"),
        (
            lambda: from_keras(CONFIG, ARRAYS, 4),
            "from_keras: dims expected 0, 1, 2 or 3",
        ),
        (
            lambda: from_keras(CONFIG, ARRAYS, count=1),
            "from_keras: count expected at least 2 values per channel, got 1",
        ),
        (
            lambda: from_keras(CONFIG, [GAMMA, BETA[:1], MEAN, VAR]),
            r"from_keras: arrays expected one shape \(C,\), got gamma \(2,\), beta \(1,\), ",
        ),
        (
            lambda: from_keras(CONFIG, [GAMMA, BETA, MEAN, -VAR]),
            "from_keras: moving_variance expected finite numbers of at least 0, got -8.0 in channel 0$",
        ),
        (
            lambda: from_keras(CONFIG, [GAMMA, BETA, MEAN * [1, np.nan], VAR]),
            "from_keras: moving_mean expected finite numbers, got nan in channel 1$",
        ),
        (
            lambda: from_keras(CONFIG, [GAMMA * np.inf, BETA, MEAN, VAR]),
            "from_keras: gamma expected finite numbers, got inf in channel 0$",
        ),
        (
            lambda: from_keras(CONFIG, [GAMMA, BETA, MEAN, VAR * 3e37], count=2),
            "from_keras: moving_variance expected finite numbers of at least 0, got inf in channel 0$",
        ),
        (
            lambda: from_keras(CONFIG, [GAMMA + 1j, BETA, MEAN, VAR]),
            "from_keras: gamma expected an array of real numbers, got ndarray$",
        ),
        (
            lambda: from_keras(CONFIG, ["gamma", BETA, MEAN, VAR]),
            "from_keras: gamma expected an array of real numbers, got str$",
        ),
        (
            lambda: from_keras(CONFIG, {"gamma": GAMMA, "beta": BETA}),
            "from_keras: weights expected gamma, beta, moving_mean, moving_variance, got gamma, beta$",
        ),
        (
            lambda: from_keras(nn.Linear(2, 2), ARRAYS),
            r"from_keras: config expected layer.get_config\(\), got Linear$",
        ),
        (
            lambda: from_keras({}, ARRAYS),
            "from_keras: config expected axis, momentum, epsilon, scale, center, got no axis, no momentum,",
        ),
        (
            lambda: from_keras({"class_name": "LayerNormalization", "config": CONFIG}, ARRAYS),
            "from_keras: config expected a BatchNormalization's, got that of LayerNormalization$",
        ),
        (
            lambda: from_keras({**CONFIG, "momentum": None}, ARRAYS),
            "from_keras: momentum expected a number from 0 to 1, got None$",
        ),
        (
            lambda: from_keras({**CONFIG, "epsilon": -1}, ARRAYS),
            "from_keras: epsilon expected a number of at least 0, got -1$",
        ),
        (
            lambda: from_keras(CONFIG, ARRAYS, count=float("nan")),
            "from_keras: count expected at least 2 values per channel, got nan$",
        ),
        (
            lambda: from_flax(
                {"params": {"bn": {"scale": GAMMA}}, "batch_stats": {"mean": MEAN, "var": VAR}}
            ),
            "from_flax: params expected scale and bias, got bn$",
        ),
        (
            lambda: from_flax({"scale": GAMMA, "mean": MEAN, "var": VAR}),
            "from_flax: variables expected params and batch_stats, got scale, mean, var$",
        ),
        (
            lambda: from_flax({"params": None, "batch_stats": {"bn": {"mean": MEAN, "var": VAR}}}),
            "from_flax: batch_stats expected mean and var, got bn$",
        ),
        (lambda: from_flax([1]), "from_flax: variables expected a mapping, got list$"),
        (
            lambda: from_flax({"params": {}, "batch_stats": 3}),
            "from_flax: batch_stats expected a mapping, got int$",
        ),
        (
            lambda: to_keras(nn.LazyBatchNorm2d()),
            "to_keras: layer expected values, got LazyBatchNorm2d",
        ),
        (
            lambda: to_keras(nn.BatchNorm2d(3, device="meta")),
            "to_keras: layer expected values, got BatchNorm2d",
        ),
        (
            lambda: from_flax({"batch_stats": {"mean": 1.0, "var": 2.0}}),
            r"from_flax: arrays expected one shape \(C,\), got mean \(\), var \(\)",
        ),
        (
            lambda: from_keras({**CONFIG, "momentum": 1.5}, ARRAYS),
            "from_keras: momentum expected a number from 0 to 1, got 1.5",
        ),
        (lambda: to_keras(nn.Linear(2, 2)), "to_keras: layer expected a batch norm, got Linear"),
        (lambda: from_flax({"params": {}}), "from_flax: batch_stats expected mean and var, got nothing"),
        (
            lambda: to_flax(nn.BatchNorm2d(2, track_running_stats=False)),
            r"to_flax: layer expected running statistics of shape \(C,\), got BatchNorm2d",
        ),
        (
            lambda: to_keras(nn.BatchNorm2d(2, momentum=None)),
            "to_keras: momentum expected a number",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
