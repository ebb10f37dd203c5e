import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, train, trained


def lagging():
    return trained(momentum=0.001)


def test_fires_on_a_slow_momentum(whole):
    report = diagnose(lagging())
    assert report.codes == ("BN012",)
    whole(report)


def test_fires_and_is_confirmed_by_data(whole):
    report = diagnose(lagging(), batches())
    assert report.codes == ("BN012",)
    assert {finding.state for finding in report.findings} == {"confirmed"}
    whole(report)


def test_fires_on_momentum_zero_in_training(whole):
    report = diagnose(train(fresh(momentum=0.0), batches(), 1), batches(), ignore=["BN001"])
    assert report.codes == ("BN012",)
    whole(report)


def test_is_silent_with_the_usual_momentum():
    assert diagnose(trained(), batches()).findings == ()


def test_is_silent_on_momentum_zero_in_prediction():
    layer = nn.Sequential(nn.BatchNorm1d(2, momentum=0.0), nn.Linear(2, 1)).eval()
    assert diagnose(layer).findings == ()


def test_is_withdrawn_where_pretrained_statistics_lost_their_counter():
    model = trained()
    for number in ("1", "4", "7"):
        model.get_submodule(number).num_batches_tracked.fill_(2)
    report = diagnose(model, batches())
    assert report.findings == ()
    assert {finding.code for finding in report.withdrawn} == {"BN012"}


@pytest.mark.parametrize("count", [28, 29])
def test_the_limit_is_a_twentieth(count):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[0].running_mean += 1
    model[0].num_batches_tracked.fill_(count)
    assert ("BN012" in diagnose(model).codes) == (count == 28)
    assert torch.equal(model[0].running_mean, torch.ones(2))
