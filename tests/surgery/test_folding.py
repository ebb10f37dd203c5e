"""The arithmetic: every kind of layer, before and after, in float64 and stored in the layer's dtype."""

import itertools

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.surgery import ScaleShift, fold
from tests.surgery.folds import assert_folds, settled

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CASES = list(itertools.product((1, 2, 3), (CONVOLUTIONS, TRANSPOSED), (1, 2, 4)))
IDS = [f"{kinds[dims].__name__}-groups{groups}" for dims, kinds, groups in CASES]


def images(dims, channels=4, size=7, batch=2):
    return torch.randn(batch, channels, *[size] * dims, dtype=torch.float64)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dims", "kinds", "groups"), CASES, ids=IDS)
def test_into_the_convolution_before(dims, kinds, groups, bias, affine):
    layer = kinds[dims](4, 8, 3, stride=2, padding=1, groups=groups, bias=bias)
    model = settled(nn.Sequential(layer, NORMS[dims](8, affine=affine), nn.ReLU()))
    folded, report = assert_folds(model, images(dims), images(dims, size=12, batch=1))
    assert report.folded == {"1": ("0",)}
    assert type(folded[0]) is type(layer)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dims", "kinds", "groups"), CASES, ids=IDS)
def test_into_the_convolution_after(dims, kinds, groups, bias):
    size = 1 if kinds is TRANSPOSED else 3
    model = nn.Sequential(NORMS[dims](4), kinds[dims](4, 8, size, groups=groups, bias=bias))
    _, report = assert_folds(settled(model), images(dims), images(dims, size=12, batch=1))
    assert report.folded == {"0": ("1",)}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_into_linear_before_and_after(bias, affine):
    inputs = torch.randn(5, 4, dtype=torch.float64)
    before = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.BatchNorm1d(6, affine=affine))
    after = nn.Sequential(nn.BatchNorm1d(4, affine=affine), nn.Linear(4, 6, bias=bias))
    for model, folded in ((before, {"1": ("0",)}), (after, {"0": ("1",)})):
        assert assert_folds(settled(model), inputs)[1].folded == folded


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_shifted_values_is_exact(mode):
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding=1, padding_mode=mode))
    assert assert_folds(settled(model), images(2))[1].folded == {"0": ("1",)}


@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_zeros_padded_after_a_shift_keep_the_batch_norm_apart(padding):
    model = settled(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding=padding)))
    folded, report = assert_folds(model, images(2))
    assert report.alone == {"0": "follows an input; the zeros that 1 pads would need the shift"}
    assert isinstance(folded[0], ScaleShift)


def test_zeros_padded_are_exact_without_a_shift():
    norm = nn.BatchNorm2d(4, affine=False)
    model = settled(nn.Sequential(norm, nn.Conv2d(4, 8, 3, padding=1)))
    norm.running_mean.zero_()
    assert assert_folds(model, images(2))[1].folded == {"0": ("1",)}


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": 1, "stride": 2}, {"kernel_size": 1, "padding": 1}]
)
def test_a_transposed_convolution_gathers_a_shift_unevenly(options):
    model = settled(nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 8, **options)))
    assert list(assert_folds(model, images(2))[1].alone) == ["0"]


def test_same_and_valid_padding_where_they_pad_nothing():
    for options in ({"kernel_size": 1, "padding": "same"}, {"kernel_size": 3, "padding": "valid"}):
        model = settled(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, **options)))
        assert assert_folds(model, images(2))[1].folded == {"0": ("1",)}


def test_two_batch_norms_in_a_row_go_into_one_layer():
    model = settled(
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8))
    )
    assert assert_folds(model, images(2))[1].folded == {"0": ("1",), "2": ("1",), "3": ("1",)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_folded_in_float64_and_rounded_once(dtype):
    convolution, norm = nn.Conv2d(4, 8, 3).to(dtype), settled(nn.BatchNorm2d(8), dtype=torch.float32)
    folded, _ = fold(nn.Sequential(convolution, norm).eval())
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = convolution.weight.double() * scale[:, None, None, None]
    assert torch.equal(folded[0].weight, weight.to(dtype))
    assert torch.equal(folded[0].bias, (convolution.bias.double() * scale + shift).to(dtype))


def test_folded_weights_that_do_not_fit_are_refused():
    model = settled(nn.Sequential(nn.Linear(2, 2).half(), nn.BatchNorm1d(2)), dtype=torch.float32)
    model[0].half()
    with torch.no_grad():
        model[0].weight.fill_(6e4)
        model[1].weight.fill_(9.0)
    with pytest.raises(ValueError, match=r"fold: 0.weight expected numbers that fit into torch.float16"):
        fold(model, inplace=True)
    assert isinstance(model[1], nn.BatchNorm1d)
    assert (model[0].weight == 6e4).all()


def test_memory_format_and_gradient_switches_stay():
    model = settled(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8)))
    model = model.to(memory_format=torch.channels_last)
    model[0].requires_grad_(False)
    model[3].requires_grad_(False)
    folded, _ = fold(model)
    assert folded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    output = folded(images(2).to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 2), (3, 4, 5, 2, 2)])
def test_a_scale_and_shift_takes_any_rank(shape):
    norm = settled(nn.SyncBatchNorm(4))
    folded, report = assert_folds(nn.Sequential(nn.ReLU(), norm).eval(), torch.randn(shape).double())
    assert list(report.alone) == ["1"]
    assert isinstance(folded[1], ScaleShift)


def test_a_scale_and_shift_says_where_its_channels_are():
    weight, bias = torch.ones(4), torch.zeros(4)
    assert repr(ScaleShift(weight, bias)).startswith("ScaleShift(\n  4\n")
    assert repr(ScaleShift(weight, bias, channel_dim=-1)).startswith("ScaleShift(\n  4, channel_dim=-1\n")


def test_a_layer_whose_weights_are_no_floating_numbers_takes_nothing_in():
    linear = nn.Linear(4, 4, bias=False)
    linear.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    report = fold(nn.Sequential(linear, nn.BatchNorm1d(4)).eval())[1]
    assert report.alone["1"].startswith("follows 0, which has weights of dtype torch.int8")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_scale_and_shift_of_half_inputs_computes_in_float32(dtype):
    norm = settled(bn.BatchNorm1d(4), dtype=dtype)
    inputs = torch.randn(8, 4, dtype=dtype)
    folded, _ = fold(nn.Sequential(nn.ReLU(), norm).eval())
    assert folded[1].weight.dtype == torch.float32
    assert folded(inputs).dtype == dtype
    assert (folded(inputs) - norm(inputs.relu())).abs().max() <= torch.finfo(dtype).eps * 8


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("activation", bn.ops.ACTIVATIONS)
def test_the_activation_of_our_layers_stays(activation, alone):
    first = nn.Tanh() if alone else nn.Conv2d(4, 4, 1)
    model = settled(nn.Sequential(first, bn.BatchNorm2d(4, activation=activation)))
    _, report = assert_folds(model, images(2) * 4)
    assert list(report.alone if alone else report.folded) == ["1"]
