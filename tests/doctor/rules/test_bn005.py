import pytest
import torch
from torch import nn

import batchnorm
from batchnorm.doctor import diagnose
from tests.doctor.networks import trained
from tests.doctor.rules.mending import mend


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fires_on_a_model_cast_for_training(dtype, whole):
    report = diagnose(trained().to(dtype))
    assert (report.codes, report.severity) == (("BN005",), "error")
    whole(report)


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
