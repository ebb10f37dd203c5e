"""The networks that studies compare differ in what they are said to differ in, and in nothing else."""

import pytest
import torch

from batchnorm.models import ResNet, norm_factory, norm_sites
from batchnorm.study.c04_depth import NETWORKS
from batchnorm.study.networks import PartialNorm, lenet, places
from batchnorm.study.recurrent import NORMS, RowLSTM, settle

KINDS = [
    "none",
    "batch",
    "ghost:4",
    "renorm",
    "frozen",
    "group:2",
    "mean-only",
    "var-only",
    "no-affine",
    "fixed-gamma",
    "fixed-beta",
]


def weights(model):
    return [p for name, p in model.named_parameters() if "norm" not in name and p.dim() > 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["xavier", "kaiming", "0.5"])
def test_equal_seeds_have_equal_weights(kind, init):
    ours, plain = lenet(kind, 3, init=init), lenet("none", 3, init=init)
    for a, b in zip(weights(ours), weights(plain), strict=True):
        assert torch.equal(a, b)
    assert ours(torch.rand(8, 1, 28, 28)).shape == (8, 10)


def test_equal_seeds_have_equal_weights_in_deep_nets_and_recurrent_ones():
    deep = [
        ResNet(8, norm_factory(kind["norm"]), torch.Generator().manual_seed(3), shortcuts=kind["shortcuts"])
        for kind in NETWORKS.values()
    ]
    recurrent = []
    for norm in NORMS:
        torch.manual_seed(3)
        recurrent.append(RowLSTM(norm, 8, varied=False, masked=False))
    for first, *others in (deep, recurrent):
        for other in others:
            for a, b in zip(weights(first), weights(other), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize(("part", "mean", "std"), [("mean", 0.0, 3.0), ("var", 5 / 3, 1.0)])
def test_half_of_the_normalization_does_its_half(part, mean, std):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, 8, 8, generator=generator)
    x = 5 + 3 * (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    layer = PartialNorm(2, part)
    for _ in range(60):
        y = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.full((2,), mean), atol=2e-3, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.full((2,), std), atol=2e-3, rtol=0)
    torch.testing.assert_close(layer.eval()(x), y, atol=2e-2, rtol=0)


def test_only_the_places_asked_for_normalize():
    model = lenet("batch", 0, at="24")
    found = [name for name, place in norm_sites(model).items() if hasattr(place, "running_mean")]
    assert found == ["norm2", "norm4"]


def test_scales_zeros_and_biases():
    scaled = lenet("none", 0, init="0.01")
    assert 0.009 < scaled.dense1.weight.std() < 0.011
    assert not any(p.any() for p in lenet("none", 0, init="zeros").parameters())
    bare = lenet("batch", 0, bias=False)
    assert [bare.conv1.bias, bare.dense2.bias] == [None, None]
    assert bare.output.bias is not None


def test_what_is_fixed_learns_nothing():
    assert not lenet("fixed-gamma", 0).norm1.norm.weight.requires_grad
    assert lenet("fixed-gamma", 0).norm1.norm.bias.requires_grad
    assert not lenet("fixed-beta", 0).norm1.norm.bias.requires_grad
    assert lenet("no-affine", 0).norm1.norm.weight is None


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"study: norm expected one of none, batch, ghost, .*, got 'magic'"):
        places("magic")


@pytest.mark.parametrize("masked", [True, False])
def test_padding_counts_where_it_is_not_masked(masked):
    torch.manual_seed(0)
    model = RowLSTM("per-step", 8, varied=True, masked=masked)
    images = torch.rand(32, 1, 28, 28)
    lengths = model._lengths(images.squeeze(1))
    assert set(lengths.tolist()) == {14, 21, 28}
    model(images)
    real = lengths == 28
    last = images[:, 0, 27].where(real[:, None], torch.tensor(1.0))
    counted = model.from_input(last)[real if masked else slice(None)]
    torch.testing.assert_close(model.norms[0].running_mean[27], 0.1 * counted.mean(0))


@pytest.mark.parametrize("norm", NORMS)
def test_what_lies_behind_the_end_has_no_influence(norm):
    torch.manual_seed(0)
    model = RowLSTM(norm, 8, varied=True, masked=True)
    images = torch.rand(32, 1, 28, 28)
    other = images.clone()
    for image, length in zip(other, model._lengths(images.squeeze(1)).tolist(), strict=True):
        image[0, length:] = image[0, length:].flip(0)  # keeps the sum that the length comes from
    torch.testing.assert_close(model(images), model(other))


def test_settled_statistics_are_the_mean_over_batches():
    torch.manual_seed(0)
    model = RowLSTM("per-step", 8, varied=False, masked=False)
    batches = [(torch.rand(16, 1, 28, 28), torch.zeros(16)) for _ in range(3)]
    model(torch.rand(16, 1, 28, 28))  # what was before is forgotten
    settle(model.eval(), batches)
    assert not model.training
    first = model.norms[0]
    assert first.momentum == 0.1
    rows = torch.cat([model.from_input(images[:, 0, 5]) for images, _ in batches])
    torch.testing.assert_close(first.running_mean[5], rows.mean(0))


def test_statistics_a_step_are_a_set_for_each_row():
    model = RowLSTM("per-step", 8, varied=False, masked=False)
    model(torch.rand(16, 1, 28, 28))
    assert model.norms[0].running_mean.shape == (28, 32)
    assert model.norms[0].num_batches_tracked.tolist() == [1] * 28
