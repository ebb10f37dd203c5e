"""Micro-batches that the running statistics have not followed yet."""

import copy
import io

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vmap

import batchnorm as bn

S = bn.stats
FAR, NEAR = torch.tensor([[1000.0], [1001.0]]), torch.tensor([[0.0], [1.0]])


def reset(layer):
    layer.reset_running_stats()


def reset_all(layer):
    layer.reset_parameters()


def load(layer):
    layer.load_state_dict(bn.BatchNorm1d(1).state_dict())


def load_a_model(layer):
    torch.nn.Sequential(layer).load_state_dict(torch.nn.Sequential(bn.BatchNorm1d(1)).state_dict())


@pytest.mark.parametrize("start_afresh", [reset, reset_all, load, load_a_model])
def test_what_was_accumulated_is_forgotten_with_the_running_statistics(start_afresh):
    layer, fresh = (bn.BatchNorm1d(1, stats=S.Accumulated(2)) for _ in range(2))
    layer(FAR)
    start_afresh(layer)
    for _ in range(2):
        layer(NEAR)
        fresh(NEAR)
    torch.testing.assert_close(layer.state_dict(), fresh.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("start_afresh", [reset, load])
def test_the_corrections_of_renorm_are_forgotten_too(start_afresh):
    layer = bn.BatchNorm1d(1, stats=S.Renorm())
    layer(NEAR)
    start_afresh(layer)
    assert not layer.corrections


TRANSFORMS = {
    "grad": lambda layer, x: grad(lambda x: layer(x).sum())(x),
    "jacrev": lambda layer, x: jacrev(layer)(x),
    "jvp": lambda layer, x: jvp(layer, (x,), (x,)),
    "grad of grad": lambda layer, x: grad(lambda x: grad(lambda x: layer(x).pow(3).sum())(x).sum())(x),
    "parameters": lambda layer, x: grad(lambda p: functional_call(layer, p, (x,)).sum())(
        dict(layer.named_parameters())
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_accumulates_outside_of_itself(transform):
    layer, twin = (bn.BatchNorm1d(1, stats=S.Accumulated(2)) for _ in range(2))
    TRANSFORMS[transform](layer, FAR)
    twin(FAR)
    torch.save(layer, io.BytesIO())
    copy.deepcopy(layer)(NEAR)
    for one in (layer, twin):
        one(NEAR)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())


def test_what_a_vmap_cannot_keep_is_refused():
    layer = bn.BatchNorm1d(1, stats=S.Accumulated(2))
    with pytest.raises(RuntimeError, match="expected no vmap around batches of Accumulated"):
        vmap(layer)(torch.randn(3, 4, 1))
    assert layer.pending is None
