import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import fresh, trained
from tests.doctor.rules.mending import mend


def drawn(mean, std):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 1))
    nn.init.normal_(model[0].weight, mean, std)
    return model


def test_fires_on_a_weight_drawn_around_zero(whole):
    report = diagnose(drawn(0.0, 0.02))
    assert report.codes == ("BN017",)
    whole(report)


def test_fires_on_a_trained_layer_with_weight_zero(whole):
    model = trained()
    nn.init.zeros_(model[4].weight)
    whole(diagnose(model))


def test_is_silent_on_zero_at_the_start():
    model = fresh()
    nn.init.zeros_(model[7].weight)  # as the last of a residual branch
    assert diagnose(model).findings == ()


def test_is_silent_on_trained_weights_whose_statistics_were_lost():
    """Weight 0 at the start of a residual branch ends small and with both signs, and the bias moves."""
    model = drawn(0.0, 0.2)
    nn.init.normal_(model[0].bias, 0, 0.1)
    assert diagnose(model).codes == ("BN001",)
    model[0].bias.data.zero_()
    assert diagnose(model).codes == ("BN017",)


def test_fires_with_a_bias_that_starts_from_a_constant():
    model = drawn(0.0, 0.02)
    nn.init.constant_(model[0].bias, 1e-3)
    assert diagnose(model).codes == ("BN017",)


def test_is_silent_on_a_weight_drawn_around_one():
    assert diagnose(drawn(1.0, 0.02)).findings == ()


@pytest.mark.parametrize("size", [0.09, 0.11])
def test_the_limit_is_a_median_of_a_tenth(size):
    model = drawn(1.0, 0.0)
    nn.init.constant_(model[0].weight, size)
    assert ("BN017" in diagnose(model).codes) == (size < 0.1)


def test_mending_starts_from_one():
    model = drawn(0.0, 0.02)
    mend(model, diagnose(model), "BN017")
    assert torch.equal(model[0].weight, torch.ones(64))
