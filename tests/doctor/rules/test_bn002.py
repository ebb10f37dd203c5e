import math

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d
from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, train, trained
from tests.doctor.rules.mending import mend


def poisoned(norm=nn.BatchNorm2d, **options):
    """One step with an infinite value, then clean ones, as when a loss scaler skips the step."""
    model, data = fresh(norm, **options), batches()
    broken = data[0][0].clone()
    broken[0, 0, 0, 0] = math.inf
    with torch.no_grad():
        model(broken)
    return model


def test_fires_on_one_infinite_value(whole):
    report = diagnose(poisoned(), batches())
    assert report.codes == ("BN002",)
    assert [finding.layer for finding in report.findings] == ["1", "4", "7"]
    whole(report)


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_fires_on_a_variance_that_is_none(value, whole):
    layer = nn.BatchNorm1d(2)
    layer.running_var[1] = value
    report = diagnose(layer.state_dict())
    assert report.codes == ("BN002",)
    whole(report)


def test_fires_on_weights_and_offers_no_cure(whole):
    layer = nn.BatchNorm1d(2)
    with torch.no_grad():
        layer.weight[0] = math.nan
    report = diagnose(layer.state_dict())
    assert report.findings[0].fix.kind == "advice"
    whole(report)


def test_is_silent_with_the_guarded_layer():
    class Guarded(BatchNorm1d):
        pass

    model = nn.Sequential(nn.Linear(3, 3), BatchNorm1d(3, nonfinite="skip"), nn.Linear(3, 1))
    with torch.no_grad():
        model(torch.full((4, 3), math.inf))
    train_batches = [torch.randn(32, 3) for _ in range(60)]
    for batch in train_batches:
        model(batch)
    assert "BN002" not in diagnose(model).codes


def test_is_silent_on_a_variance_that_rounds_to_zero():
    layer = nn.BatchNorm1d(2)
    layer.running_var[1] = -1e-13
    assert "BN002" not in diagnose(layer.state_dict()).codes


def test_mending_resets_bad_channels_and_measures():
    model = train(trained(), batches(), 1)
    model[4].running_var[3] = math.nan
    mend(model, diagnose(model, batches()), "BN002", batches())
    assert diagnose(model, batches()).findings == ()
