import pytest
import torch
from torch import nn

from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from tests.doctor.networks import NORMS, batches, fresh, rows, train, trained


def lagging():
    """300 steps, after which the initial values weigh 0.74."""
    return trained(momentum=0.001, epochs=15)


def test_fires_on_a_slow_momentum(whole):
    report = diagnose(lagging())
    assert (report.codes, report.severity) == (("BN012",), "error")
    whole(report)


def test_fires_as_a_warning_where_the_initial_values_weigh_less_than_half(whole):
    report = diagnose(trained(momentum=0.02))
    assert (report.codes, report.severity) == (("BN012",), "warn")
    whole(report)


def test_fires_for_information_where_they_do_little_harm(whole):
    report = diagnose(trained(momentum=0.045))
    assert (report.codes, report.severity) == (("BN012",), "info")
    whole(report)
    report = diagnose(trained(momentum=0.045), batches())
    assert (report.codes, report.severity) == (("BN012",), "info")


def test_the_gap_expected_without_data_is_the_measured_one():
    model = lagging()
    expected = {f.layer: f.evidence["expected_gap"] for f in diagnose(model).findings}
    measured = {layer.layer: layer.size for layer in diagnose(model, batches()).layers}
    assert expected == pytest.approx(measured, rel=0.1)


def test_fires_although_a_channel_of_zeros_fell_as_far_as_it_can(whole):
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.01), nn.Linear(4, 1))
    for row in rows():
        model((row * 3 + 2) * torch.tensor([1.0, 1.0, 0.0, 1.0]))
    whole(diagnose(model))


def test_fires_and_is_confirmed_by_data(whole):
    report = diagnose(lagging(), batches())
    assert report.codes == ("BN012",)
    assert {finding.state for finding in report.findings} == {"confirmed"}
    whole(report)


def test_fires_on_momentum_zero_in_training(whole):
    report = diagnose(train(fresh(momentum=0.0), batches(), 1), batches(), ignore=["BN001"])
    assert report.codes == ("BN012",)
    whole(report)


def test_fires_as_a_warning_on_momentum_zero_with_pretrained_statistics(whole):
    model = trained()
    for name in NORMS:
        model.get_submodule(name).momentum = 0.0
    report = diagnose(model)
    assert (report.codes, report.severity) == (("BN012",), "warn")
    whole(report)


def test_is_silent_with_the_usual_momentum():
    model = trained(epochs=15)
    assert diagnose(model).findings == ()
    assert diagnose(model, batches()).findings == ()


@pytest.mark.parametrize("number", [3, 20])
def test_is_silent_on_statistics_measured_on_a_few_batches(number):
    model = trained()
    recalibrate(model, batches()[:number])
    assert int(model[1].num_batches_tracked) == number
    assert diagnose(model).findings == ()


def test_is_silent_on_a_layer_that_was_measured_with_one_whose_variance_tells():
    model = trained()
    recalibrate(model, batches()[:3])
    model[1].running_var.clamp_(min=1.0)
    assert diagnose(model).findings == ()


def test_is_silent_on_momentum_zero_in_prediction():
    layer = nn.Sequential(nn.BatchNorm1d(2, momentum=0.0), nn.Linear(2, 1)).eval()
    assert diagnose(layer).findings == ()


def test_is_silent_on_pretrained_statistics_that_lost_their_counter():
    model = trained()
    for name in NORMS:
        model.get_submodule(name).num_batches_tracked.fill_(2)
    assert diagnose(model).findings == ()


def test_is_withdrawn_where_the_statistics_are_right_whatever_the_counter():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    for row in rows(64, 60):
        model(row)
    model[0].num_batches_tracked.fill_(3)
    assert diagnose(model).codes == ("BN012",)
    report = diagnose(model, rows(64))
    assert report.findings == ()
    assert [finding.code for finding in report.withdrawn] == ["BN012"]


@pytest.mark.parametrize("count", [28, 29])
def test_the_limit_is_a_twentieth(count):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[0].running_mean += 1
    model[0].num_batches_tracked.fill_(count)
    assert ("BN012" in diagnose(model).codes) == (count == 28)
    assert torch.equal(model[0].running_mean, torch.ones(2))
