import copy

import torch
from torch import nn

from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained


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


def test_is_silent_after_a_recalibration():
    model = merged()
    recalibrate(model, batches())
    assert diagnose(model, batches(), averaged_from=trained()).findings == ()


def test_is_silent_where_the_weights_are_the_live_ones():
    live = trained()
    assert diagnose(copy.deepcopy(live), averaged_from=live).findings == ()


def test_is_silent_on_a_pair_of_networks_that_share_nothing():
    live = nn.Sequential(nn.Linear(2, 2))
    assert diagnose(trained(), averaged_from=live).findings == ()
