import pytest
import torch
from torch import nn

from batchnorm.models import NORMS, NormAct, build, norm_factory, norm_sites
from batchnorm.models.norm import is_empty


@pytest.mark.parametrize("norm", NORMS)
def test_places_have_the_same_names_in_every_version(norm):
    assert list(norm_sites(build("lenet", norm=norm))) == ["norm1", "norm2", "norm3", "norm4"]
    names = list(norm_sites(build("resnet20", norm=norm)))
    assert len(names) == 19  # one a convolution
    assert names[:3] == ["norm1", "stage1.0.norm1", "stage1.0.norm2"]
    assert names[-1] == "stage3.2.norm2"


def test_a_hook_sees_the_same_input_in_every_version():
    images = torch.rand(4, 1, 28, 28)
    for norm in NORMS:
        model = build("lenet", norm=norm, seed=2)
        seen = []
        model.norm1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model(images)
        assert torch.equal(seen[0], model.conv1(images))


def test_sites_of_another_model_are_its_batch_norm_layers():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), NormAct(nn.BatchNorm1d(3), "relu"), nn.ReLU())
    assert list(norm_sites(model)) == ["1", "2"]
    assert list(norm_sites(nn.BatchNorm1d(3))) == [""]


@pytest.mark.parametrize("spatial", [0, 2])
@pytest.mark.parametrize("kind", ["batch", "torch", "scratch"])
def test_a_place_normalizes_adds_and_activates(kind, spatial):
    x, residual = torch.randn(2, 5, 3, *[4] * spatial)
    place = norm_factory(kind)(3, spatial, "relu")
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    expected = torch.relu((x - mean) / (var + 1e-5).sqrt() + residual)
    torch.testing.assert_close(place(x, residual=residual), expected, rtol=1e-4, atol=1e-5)


def test_the_empty_place_only_adds_and_activates():
    x, residual = torch.randn(2, 5, 3)
    place = norm_factory("none")(3, 0, "tanh")
    assert torch.equal(place(x, residual=residual), torch.tanh(x + residual))
    assert torch.equal(place(x), torch.tanh(x))


def test_only_the_place_without_a_norm_is_empty():
    assert [is_empty(norm_factory(kind)(3, 2, "relu")) for kind in NORMS] == [True, False, False, False]


def test_a_maker_of_ones_own_fills_the_places():
    def groups(channels, spatial, activation):
        return NormAct(nn.GroupNorm(2, channels), activation)

    model = build("resnet20", norm=groups)
    assert len(norm_sites(model)) == 19
    assert model.stage3[0].norm2.norm.num_channels == 64
    assert model.conv1.bias is None
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_the_activation_shows():
    assert "activation='relu'" in repr(NormAct(nn.Identity(), "relu"))
