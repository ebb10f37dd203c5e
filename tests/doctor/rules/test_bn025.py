import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import dense_net, rows


def test_fires_on_two_rows(whole):
    report = diagnose(dense_net(), rows(2))
    assert report.codes == ("BN025",)
    whole(report)


def test_is_silent_on_two_images_with_large_maps():
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(2, 1, 64, 64, generator=generator) for _ in range(20)]
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    assert diagnose(model, data).findings == ()


def test_is_silent_on_two_images_worth_forty_values():
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 8, 64, 64, generator=generator) for _ in range(20)]
    data = [x + 0.05**0.5 * torch.randn(2, 8, 1, 1, generator=generator) for x in noise]
    means = torch.stack([x.mean((0, 2, 3)) for x in data])
    assert 1 / means.var(0).median().item() == pytest.approx(40, rel=0.2)  # the variance within is 1
    model = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3))
    assert diagnose(model, data).findings == ()


def test_fires_on_maps_whose_pixels_are_alike(whole):
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(4, 1, 1, 1, generator=generator).expand(4, 1, 16, 16) for _ in range(20)]
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3))
    report = diagnose(model, data, rules=["BN025"])
    assert report.codes == ("BN025",)
    whole(report)


def test_is_silent_on_frozen_layers():
    model = dense_net()
    model[1].running_mean += 1
    model[1].eval()
    assert "BN025" not in diagnose(model, rows(2)).codes


def test_is_silent_on_sixteen_rows():
    assert diagnose(dense_net(), rows(16)).findings == ()
