import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, by_class, dense_net, fresh, rows, train, trained


def test_fires_on_one_class_a_batch(whole):
    report = diagnose(train(fresh(), by_class(), 3), by_class())
    assert report.codes == ("BN026",)
    assert report.findings[0].severity == "error"
    whole(report)


@pytest.mark.parametrize(("spread", "severity"), [(0.2, None), (0.4, "warn"), (1.0, "error")])
def test_fires_by_how_much_batches_differ(spread, severity):
    generator = torch.Generator().manual_seed(0)
    data = [row + spread * torch.randn(1, 4, generator=generator) for row in rows(32)]
    assert diagnose(dense_net(), data, rules=["BN026"]).severity == severity


@pytest.mark.parametrize("size", [2, 8, 64])
def test_is_silent_on_shuffled_data(size):
    data = batches(size, 1280 // size)
    report = diagnose(train(fresh(), data, 2), data)
    assert "BN026" not in report.codes


def test_is_silent_with_too_few_batches_to_tell():
    report = diagnose(trained(), by_class()[:4])
    assert report.findings == ()
    assert report.skipped["BN026"] == "needs 8 batches or more, got 4"


def test_is_silent_on_what_chance_makes_of_twenty_batches_of_two():
    model = nn.BatchNorm1d(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        data = list(torch.randn(20, 2, 1, generator=generator))
        assert diagnose(model, data, rules=["BN026"]).findings == ()
