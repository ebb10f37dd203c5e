import math

import pytest
import torch
from torch import nn

from batchnorm.models import ResNet, build, norm_factory


def make(depth, norm="batch"):
    return ResNet(depth, norm_factory(norm), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [8, 20, 56, 110])
def test_depth_counts_the_layers_with_weights(depth):
    layers = [m for m in make(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("depth", [0, 2, 9, 19])
def test_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=rf"ResNet: depth expected 6n \+ 2, n >= 1, got {depth}"):
        make(depth)


def test_a_halving_shortcut_takes_every_second_pixel_and_fills_with_zeros():
    block = make(8).stage2[0]
    nn.init.zeros_(block.norm2.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 7, 7)
    output = block(x)
    assert output.shape == (2, 32, 4, 4)
    assert torch.equal(output[:, :16], x[:, :, ::2, ::2])
    assert not output[:, 16:].any()


def test_the_shortcut_is_added_before_the_last_activation():
    block = make(8).stage1[0]
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(block(x), torch.relu(x))


def test_stages_halve_the_image_and_double_the_width():
    model, shapes = make(8), []
    for stage in (model.stage1, model.stage2, model.stage3):
        stage.register_forward_hook(lambda _m, _x, y: shapes.append(tuple(y.shape[1:])))
    model(torch.rand(2, 1, 28, 28))
    assert shapes == [(16, 28, 28), (32, 14, 14), (64, 7, 7)]


def test_convolutions_have_a_bias_only_without_a_norm():
    for norm in ("none", "batch", "torch"):
        biases = [m.bias for m in make(8, norm).modules() if isinstance(m, nn.Conv2d)]
        assert all((bias is not None) == (norm == "none") for bias in biases)
        assert norm != "none" or not any(bias.any() for bias in biases)


def test_weights_are_he_normal():
    weight = build("resnet20", seed=1).stage3[2].conv2.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
