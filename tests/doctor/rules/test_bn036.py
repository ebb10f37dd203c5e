import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.rules.mending import mend


def made_in_inference_mode():
    with torch.inference_mode():
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_fires_on_a_layer_made_in_inference_mode(whole):
    report = diagnose(made_in_inference_mode())
    assert report.codes == ("BN036",)
    whole(report)


@pytest.mark.parametrize(("transform", "momentum"), [("vmap", 0.1), ("fullgraph", None)])
def test_fires_inside(transform, momentum, whole):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 1))
    report = diagnose(model, transform=transform)
    assert report.codes == ("BN036",)
    whole(report)


def test_is_silent_on_a_forward_inside_inference_mode():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    with torch.inference_mode():
        model(torch.randn(4, 3))
    assert "BN036" not in diagnose(model).codes


@pytest.mark.parametrize("transform", ["vmap", "fullgraph"])
def test_is_silent_in_prediction_mode(transform):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=None), nn.Linear(3, 1)).eval()
    assert diagnose(model, transform=transform).findings == ()


def test_mending_lets_it_train():
    model = made_in_inference_mode()
    mend(model, diagnose(model), "BN036")
    model[0](torch.randn(4, 3)).sum().backward()
    assert "BN036" not in diagnose(model).codes
