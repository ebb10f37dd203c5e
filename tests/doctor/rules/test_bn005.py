import pytest
import torch
from torch import nn

import batchnorm
from batchnorm.doctor import diagnose
from tests.doctor.networks import rows, trained
from tests.doctor.rules.mending import mend


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fires_on_a_model_cast_for_training(dtype, whole):
    report = diagnose(trained().to(dtype))
    assert (report.codes, report.severity) == (("BN005",), "error")
    whole(report)


def after_3000_batches(dtype):
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.01), nn.Linear(4, 1)).to(dtype)
    with torch.no_grad():
        for row in rows() * 150:
            model((row * 1.2 + 0.3).to(dtype))
    return model


def test_fires_on_a_variance_that_is_stuck_where_float32_moves_on():
    stuck, right = after_3000_batches(torch.bfloat16), after_3000_batches(torch.float32)
    assert stuck[0].running_var.max().item() < 1.02 < 1.3 < right[0].running_var.min().item()
    assert diagnose(stuck).codes == ("BN005",)
    assert diagnose(right).findings == ()


def test_fires_on_a_weight_in_half_beside_statistics_in_float32(whole):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].weight.data, model[0].bias.data = model[0].weight.data.half(), model[0].bias.data.half()
    with pytest.raises(RuntimeError, match="type"):
        model[0](torch.randn(4, 3).half())
    whole(diagnose(model))


def stepped(rate):
    """Our layer in bfloat16, and one step of its optimizer."""
    model = nn.Sequential(batchnorm.BatchNorm1d(3), nn.Linear(3, 1)).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.step()
    return model, optimizer


def test_fires_on_a_weight_that_its_optimizer_cannot_move(whole):
    model, optimizer = stepped(1e-3)
    assert torch.equal(model[0].weight, torch.ones(3, dtype=torch.bfloat16))
    whole(diagnose(model, optimizer=optimizer))


def test_is_silent_on_half_weights_whose_optimizer_holds_float32_masters():
    model, _ = stepped(1e-3)
    masters = [nn.Parameter(p.detach().float()) for p in model.parameters()]
    optimizer = torch.optim.SGD(masters, 1e-3)
    assert diagnose(model, optimizer=optimizer, ignore=["BN019"]).findings == ()


def test_fires_as_a_warning_on_a_checkpoint(whole):
    whole(diagnose(trained().bfloat16().state_dict()))


def test_fires_as_information_where_it_only_predicts(whole):
    whole(diagnose(trained().eval().bfloat16()))


def test_is_silent_on_a_float32_layer_given_half_inputs():
    model = trained().half()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    assert diagnose(model).findings == ()


def test_is_silent_on_our_layer_which_keeps_float32():
    model = nn.Sequential(batchnorm.BatchNorm1d(3), nn.Linear(3, 1)).bfloat16()
    assert diagnose(model).findings == ()


def test_mending_casts_without_changing_a_value():
    model = trained().bfloat16()
    before = model[1].running_mean.clone()
    mend(model, diagnose(model), "BN005")
    assert model[1].running_mean.dtype == torch.float32
    assert torch.equal(model[1].running_mean, before.float())
