import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained
from tests.doctor.rules.mending import mend


def flipped():
    model = trained()
    model[4].track_running_stats = False
    return model


def test_fires_on_a_flag_switched_off(whole):
    report = diagnose(flipped())
    assert [(f.code, f.layer) for f in report.findings] == [("BN015", "4")]
    whole(report)


def test_is_silent_on_a_layer_built_that_way():
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1))
    assert "BN015" not in diagnose(model).codes


def test_mending_freezes_it_for_real():
    model = flipped()
    mend(model, diagnose(model), "BN015")
    layer = model[4]
    before = layer.running_mean.clone()
    layer(torch.randn(4, 12, 3, 3))
    assert torch.equal(layer.running_mean, before)
    assert diagnose(model).findings == ()
