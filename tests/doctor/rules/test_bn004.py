import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import rows
from tests.doctor.rules.mending import mend

WIDTH = 4


def dead():
    """A channel that was 0 for 200 batches."""
    model = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1))
    with torch.no_grad():
        for row in rows(number=20) * 10:
            model(row * torch.tensor([1.0, 1.0, 0.0, 1.0]))
    return model


def test_fires_on_a_channel_that_was_zero(whole):
    model = dead()
    assert model[0].running_var[2].item() == pytest.approx(7e-10, rel=0.02)
    assert model[0].eval()(torch.full((1, WIDTH), 0.5))[0, 2].item() == pytest.approx(158, abs=0.5)
    report = diagnose(model.train())
    assert report.codes == ("BN004",)
    assert report.findings[0].severity == "warn"
    whole(report)


def test_fires_as_an_error_where_data_wake_it(whole):
    report = diagnose(dead(), rows(), rules=["BN004"])
    assert (report.findings[0].severity, report.findings[0].state) == ("error", "confirmed")
    whole(report)


def test_fires_as_information_where_data_leave_it_asleep(whole):
    asleep = [row * torch.tensor([1.0, 1.0, 0.0, 1.0]) for row in rows()]
    report = diagnose(dead(), asleep)
    assert [(f.code, f.severity) for f in report.findings] == [("BN004", "info")]
    whole(report)


def test_is_silent_on_a_small_but_sound_variance():
    model = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1))
    model[0].running_var.fill_(0.02)
    model[0].num_batches_tracked.fill_(100)
    assert diagnose(model).findings == ()


def test_is_silent_where_all_channels_are_tiny():
    layer = nn.BatchNorm1d(WIDTH)
    layer.running_var.fill_(1e-6)
    assert "BN004" not in diagnose(layer.state_dict()).codes


def test_is_silent_on_a_pruned_channel():
    model = dead()
    with torch.no_grad():
        model[0].weight[2] = 0.0
    assert diagnose(model).findings == ()


def test_mending_silences_the_channel():
    model = dead()
    assert mend(model, diagnose(model), "BN004") == ["weight of 1 channels is now 0"]
    assert diagnose(model).findings == ()
