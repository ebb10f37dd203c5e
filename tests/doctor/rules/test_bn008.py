import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, norms, trained


def merged():
    """The mean of two trained networks, buffers included."""
    one, other = trained(0), trained(1)
    other = other.state_dict()
    mean = {
        key: (value + other[key]) / 2 if value.is_floating_point() else value
        for key, value in one.state_dict().items()
    }
    one.load_state_dict(mean)
    return one


def test_fires_on_the_mean_of_two_networks(whole):
    report = diagnose(merged(), batches())
    assert report.codes == ("BN008",)
    whole(report)


def test_fires_without_data_on_buffers_copied_from_the_live_model(whole):
    live = trained()
    average = copy.deepcopy(live)
    with torch.no_grad():
        for parameter in live.parameters():
            parameter *= 1.1
    report = diagnose(average, averaged_from=live)
    assert report.codes == ("BN008",)
    whole(report)


def ema(live):
    """Exponential averages of weights that go on, with statistics that stay behind."""
    average = AveragedModel(live, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    with torch.no_grad():
        for seed in range(4):
            for parameter in live.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            average.update_parameters(live)
    return average.module


def test_fires_on_an_average_nobody_measured():
    assert diagnose(ema(trained()), batches()).codes == ("BN008",)


@pytest.mark.parametrize("loader", [None, batches()], ids=["without data", "with data"])
def test_is_silent_on_an_average_followed_by_a_recalibration(loader):
    live = trained()
    average = ema(live)
    recalibrate(average, batches())
    report = diagnose(average, loader, averaged_from=live)
    assert [f.code for f in report.findings if f.severity != "info"] == []


class Contrastive(nn.Module):
    """A key encoder that runs in training alone, always in training mode, with any statistics."""

    def __init__(self):
        super().__init__()
        self.query, self.key = trained(0), trained(1)
        for norm in norms(self.key):
            norm.running_mean += 1

    def forward(self, x):
        query = self.query(x)
        return (query - self.key(x)).square() if self.training else query


def test_is_silent_on_statistics_that_prediction_never_reads():
    report = diagnose(Contrastive(), batches(seed=10))
    assert report.findings == ()
    assert {layer.layer.split(".")[0] for layer in report.layers} == {"query"}


def test_is_silent_on_frozen_statistics_and_new_data():
    model = trained().requires_grad_(False)
    for norm in norms(model):
        norm.eval()
    assert diagnose(model, batches(shift=2.0)).findings == ()


def test_is_silent_where_the_weights_are_the_live_ones():
    live = trained()
    assert diagnose(copy.deepcopy(live), averaged_from=live).findings == ()


def test_is_silent_on_a_pair_of_networks_that_share_nothing():
    live = nn.Sequential(nn.Linear(2, 2))
    assert diagnose(trained(), averaged_from=live).findings == ()
