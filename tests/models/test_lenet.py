import math

import pytest
import torch
from torch import nn

from batchnorm.models import build


def test_it_is_the_textbooks_network():
    model = build("lenet", norm="torch", seed=1).eval()
    textbook = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 120), nn.BatchNorm1d(120), nn.Sigmoid(),
        nn.Linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid(),
        nn.Linear(84, 10),
    ).eval()  # fmt: skip
    for ours, theirs in zip(model.parameters(), textbook.parameters(), strict=True):
        theirs.data.copy_(ours)
    for network in (model, textbook):
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_var.fill_(1e-3)  # far along the sigmoid, so that the order of steps shows
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(model(images), textbook(images))


@pytest.mark.parametrize("layer", ["conv1", "conv2", "dense1", "dense2", "output"])
def test_weights_are_xavier_uniform_and_biases_torchs_default(layer):
    module = build("lenet", seed=4).get_submodule(layer)
    kernel = module.weight[0, 0].numel()
    fan_in, fan_out = module.weight.shape[1] * kernel, module.weight.shape[0] * kernel
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert 0.9 * bound < module.weight.abs().max() <= bound
    assert module.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.25)
    assert 0.5 / math.sqrt(fan_in) < module.bias.abs().max() <= 1 / math.sqrt(fan_in)
