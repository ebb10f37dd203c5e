"""Layers with a mask or with statistics that are put together, where a plain layer shows what is right."""

import copy

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad

import batchnorm as bn

S = bn.stats
PAD = torch.arange(5) >= torch.tensor([5, 4, 2, 1])[:, None]
FORMS = {
    "booleans": ~PAD,
    "weights": (~PAD).double(),
    "booleans of the input's rank": (~PAD)[:, None].expand(4, 3, 5),
    "weights of the input's rank": (~PAD)[:, None].expand(4, 3, 5).double(),
}
WAYS = [
    "eager",
    pytest.param("compiled", marks=pytest.mark.filterwarnings("ignore::DeprecationWarning")),
    "functional",
]


def padded(value):
    """Input and residual, with ``value`` at the excluded positions."""
    torch.manual_seed(0)
    values = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    return [torch.where(PAD[:, None], value, v).requires_grad_() for v in values.unbind()]


def gradients(layer, mask, leaves, way):
    """Of weight, bias, input and residual."""
    call = torch.compile(layer, backend="aot_eager", fullgraph=True) if way == "compiled" else layer

    def loss(parameters, *leaves):
        y = (
            functional_call(layer, parameters, leaves, {"mask": mask})
            if parameters
            else call(*leaves, mask=mask)
        )
        return (y.movedim(1, -1)[~PAD] ** 3).sum()

    if way == "functional":
        found = grad(loss, (0, 1, 2))(dict(layer.named_parameters()), *leaves)
        return [*found[0].values(), *found[1:]]
    return torch.autograd.grad(loss({}, *leaves), [*layer.parameters(), *leaves])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_what_excluded_positions_hold_is_in_no_gradient(form, training, way):
    torch.compiler.reset()
    found = []
    for value in (0.0, torch.nan, torch.inf):
        layer = bn.BatchNorm1d(3, activation="silu", dtype=torch.float64).train(training)
        found.append((gradients(layer, FORMS[form], padded(value), way), layer.state_dict()))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=0)
    assert not any(of_leaf.movedim(1, -1)[PAD].any() for of_leaf in found[0][0][2:])


@pytest.mark.parametrize("form", FORMS)
def test_excluded_positions_that_are_normalized_too_are_in_the_gradients_not_in_the_statistics(form):
    results = []
    for value in (0.0, torch.nan):
        layer = bn.BatchNorm1d(3, excluded="normalize", dtype=torch.float64)
        y = layer(padded(value)[0], mask=FORMS[form]).movedim(1, -1)
        results.append((y[~PAD], dict(layer.named_buffers())))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    assert y[PAD].isnan().all()
    (gradient,) = torch.autograd.grad(y[~PAD].sum(), layer.weight)
    assert gradient.isnan().all()


@pytest.mark.parametrize("wrong", [-1.0, torch.nan, torch.inf])
@pytest.mark.parametrize("training", [True, False])
def test_weights_below_0_or_of_no_value_are_refused(training, wrong):
    layer, mask = bn.BatchNorm1d(3).train(training), torch.ones(4, 5)
    before, mask[1, 2] = copy.deepcopy(layer.state_dict()), wrong
    with pytest.raises(
        ValueError, match=rf"^batch_norm: mask expected finite weights of at least 0, got {wrong}$"
    ):
        layer(torch.randn(4, 3, 5), mask=mask)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("mask", [np.ones((4, 5), bool), True, [True] * 4])
def test_a_mask_that_is_no_tensor_is_refused(mask):
    got = type(mask).__name__
    with pytest.raises(TypeError, match=f"^batch_norm: mask expected a tensor, got {got}$"):
        bn.BatchNorm1d(3)(torch.randn(4, 3, 5), mask=mask)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {}),
        ({}, {"mask": torch.arange(8) < 6}),
        ({}, {"mask": torch.arange(8.0)}),
        ({"channel_dim": -1}, {}),
        ({"stats": S.Ghost(4)}, {}),
        ({"stats": S.Renorm()}, {}),
        ({"stats": S.Scheduled(0.5, 0.1, 3)}, {}),
        ({"stats": S.Accumulated(1)}, {}),
        ({"stats": S.Domains(2)}, {"domain": 1}),
        ({"stats": S.Domains(2)}, {"domain": torch.arange(8) % 2}),
    ],
    ids=str,
)
def test_a_layer_told_later_to_track_nothing_tracks_nothing(options, given):
    layer = bn.BatchNorm1d(3, **options)
    before = copy.deepcopy(layer.state_dict())
    layer.track_running_stats = False
    layer(torch.randn(8, 3) + 5, **given)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
