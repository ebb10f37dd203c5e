import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import NORMS, batches, trained
from tests.doctor.rules.mending import mend


def flipped():
    model = trained()
    model[4].track_running_stats = False
    return model


def test_fires_on_a_flag_switched_off(whole):
    report = diagnose(flipped())
    assert [(f.code, f.layer) for f in report.findings] == [("BN015", "4")]
    whole(report)


def test_fires_where_training_and_prediction_disagree():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    model[0].running_mean.fill_(10.0)
    model[0].track_running_stats = False
    x = torch.tensor([[10.0], [12.0]])
    torch.testing.assert_close(model[0](x), torch.tensor([[-1.0], [1.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(model[0].eval()(x), torch.tensor([[0.0], [2.0]]), atol=1e-4, rtol=0)
    assert diagnose(model, rules=["BN015"]).codes == ("BN015",)


@pytest.mark.parametrize("names", [("4",), NORMS])
def test_fires_alone_where_the_statistics_are_off(names):
    model = trained()
    for layer in map(model.get_submodule, names):
        layer.track_running_stats = False
        layer.running_mean += layer.running_var.sqrt()
    report = diagnose(model, batches())
    assert report.codes == ("BN015",)
    assert {(f.code, f.layer) for f in report.withdrawn} >= {("BN027", name) for name in names}


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
