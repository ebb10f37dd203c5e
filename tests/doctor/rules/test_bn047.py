import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import rows, trained


def folded(model, **options):
    return diagnose(model.eval(), goal="fold", rules=["BN047"], **options)


def test_fires_on_a_large_gain(whole):
    model = trained()
    model[4].running_var[3] = 1e-9
    report = folded(model)
    assert report.codes == ("BN047",)
    whole(report)


@pytest.mark.parametrize(("times", "codes"), [(101, ("BN047",)), (99, ())])
def test_fires_on_a_gain_that_one_scale_per_tensor_cannot_hold(times, codes):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.constant_(model[1].weight, 0.1)
    model[1].weight.data[2] *= times
    assert folded(model).codes == codes


def test_fires_on_low_precision(whole):
    whole(folded(trained().bfloat16()))


def test_fires_on_a_linear_layer_and_another_axis(whole):
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU())
    data = [torch.randn(4, 5, 5) for _ in range(8)]
    report = folded(model, loader=data)
    assert (report.codes, report.severity) == (("BN047",), "error")
    whole(report)


def test_is_silent_on_float32_and_on_rows():
    assert folded(trained()).findings == ()
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU())
    assert folded(model, loader=rows()).findings == ()


def test_is_silent_if_nobody_folds():
    assert "BN047" not in diagnose(trained().eval().bfloat16()).codes


def test_is_silent_on_a_layer_without_statistics_which_cannot_be_folded():
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert diagnose(model, goal="fold", rules=["BN047"]).findings == ()
