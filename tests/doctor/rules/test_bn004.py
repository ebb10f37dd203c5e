import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d, stats
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


def constant_in(rows):
    """A layer with statistics for each of three domains, whose channel 2 hardly varied in some."""
    layer = BatchNorm1d(WIDTH, stats=stats.Domains(3))
    layer.running_var[rows, 2] = 1e-9
    layer.num_batches_tracked += 100
    return layer


def test_is_silent_on_a_channel_that_is_constant_in_one_domain():
    assert diagnose(nn.Sequential(constant_in([0]), nn.ReLU())).codes == ()
    assert diagnose(constant_in([0]).state_dict()).codes == ()


def test_fires_on_a_channel_that_is_constant_in_every_domain(whole):
    layer = constant_in([0, 1, 2])
    assert diagnose(layer.state_dict()).codes == ("BN004",)
    report = diagnose(nn.Sequential(layer, nn.ReLU()))
    whole(report)
    assert mend(nn.Sequential(layer), report, "BN004") == ["weight of 1 channels is now 0"]
    assert layer.weight.tolist() == [1, 1, 0, 1]


def test_fires_and_stays_a_suspicion_where_a_call_tells_no_domain(whole):
    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = constant_in([0, 1, 2])

        def forward(self, x):
            return self.norm(x, domain=1)

    report = diagnose(Second(), rows(), rules=["BN004"])
    assert report.findings[0].state == "suspected"
    whole(report)
