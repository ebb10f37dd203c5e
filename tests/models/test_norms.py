import pytest
import torch
from torch import nn

from batchnorm.models import NORMS, NormAct, Norms, build, norm_sites


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


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["batch", "torch", "scratch"])
def test_a_place_normalizes_adds_and_activates(kind, rank):
    x, residual = torch.randn(2, 5, 3, *[4] * (rank - (rank == 1)))
    place = Norms(kind)(rank, 3, "relu")
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    expected = torch.relu((x - mean) / (var + 1e-5).sqrt() + residual)
    torch.testing.assert_close(place(x, residual=residual), expected, rtol=1e-4, atol=1e-5)


def test_the_empty_place_only_adds_and_activates():
    x, residual = torch.randn(2, 5, 3)
    place = Norms("none")(1, 3, "tanh")
    assert torch.equal(place(x, residual=residual), torch.tanh(x + residual))
    assert torch.equal(place(x), torch.tanh(x))


def test_only_the_empty_place_needs_a_bias_before_it():
    assert [Norms(kind).shifts for kind in NORMS] == [False, True, True, True]


def test_the_activation_shows():
    assert "activation='relu'" in repr(NormAct(nn.Identity(), "relu"))
