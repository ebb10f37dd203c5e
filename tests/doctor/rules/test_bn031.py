import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import rows


def net():
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))


@pytest.mark.parametrize("given", ["far", "constant", "huge"])
def test_fires_on(given, whole):
    data = {
        "far": [row + 2e3 for row in rows()],
        "constant": [torch.full((32, 4), 7.3e9)] * 8,
        "huge": [row * 1e19 for row in rows()],
    }[given]
    report = diagnose(net(), data, rules=["BN031"])
    assert (report.codes, report.severity) == (("BN031",), "info")
    whole(report)


def test_fires_as_a_warning_for_a_half_engine(whole):
    report = diagnose(net(), [row + 1e4 for row in rows()], target_dtype=torch.float16, rules=["BN031"])
    assert report.severity == "warn"
    whole(report)


@pytest.mark.parametrize("shift", [0.0, 1e2, 5e2])
def test_is_silent_near_zero(shift):
    assert "BN031" not in diagnose(net(), [row + shift for row in rows()]).codes


def test_is_silent_on_a_channel_of_zeros():
    assert "BN031" not in diagnose(net(), [row * torch.tensor([1.0, 1, 0, 1]) for row in rows()]).codes
