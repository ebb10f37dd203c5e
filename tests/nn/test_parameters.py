"""Layers whose weights are not plain parameters: pruned, reparametrized, sharded between processes."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrize, prune

import batchnorm as bn
from tests.processes import in_processes


class Exponential(nn.Module):
    """A positive weight from any number."""

    def forward(self, logarithm: torch.Tensor) -> torch.Tensor:
        return logarithm.exp()

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.log()


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=3)
    return lambda: layer.weight_orig


def reparametrized(layer):
    parametrize.register_parametrization(layer, "weight", Exponential())
    return lambda: layer.parametrizations.weight.original


@pytest.mark.parametrize("change", [pruned, reparametrized])
@pytest.mark.parametrize("training", [True, False])
def test_a_weight_that_is_made_at_each_call_learns_as_in_torch(change, training):
    theirs, ours = nn.BatchNorm2d(8), bn.BatchNorm2d(8)
    nn.init.uniform_(theirs.weight, 0.5, 2.0)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 8, 5, 5)
    seen = []
    for layer in (theirs.train(training), ours.train(training)):
        learned = change(layer)
        output = layer(x)
        output.square().sum().backward()
        seen.append((output.detach(), learned().grad))
    torch.testing.assert_close(seen[1], seen[0])


def steps_of_a_sharded_network(rank):
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)
    )
    ours, _ = bn.convert(copy.deepcopy(theirs), fuse=True)
    return [learned(model, mesh, rank) for model in (theirs, ours)]


def learned(model, mesh, rank):
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return [parameter.full_tensor().detach() for parameter in model.parameters()] + list(model.buffers())


def test_a_network_sharded_by_fsdp_learns_as_in_torch():
    for theirs, ours in in_processes(2, steps_of_a_sharded_network):
        torch.testing.assert_close(ours, theirs)
