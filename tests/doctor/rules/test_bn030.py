import pytest
import torch

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained


def test_fires_on_shifted_inputs(whole):
    torch.manual_seed(0)
    report = diagnose(trained(), batches(), target_loader=[(x * 4, y) for x, y in batches(seed=5)])
    assert [(f.code, f.severity) for f in report.findings] == [("BN030", "info")]
    whole(report)


def test_fires_on_inputs_plus_one_and_a_half():
    report = diagnose(trained(), batches(), target_loader=batches(seed=5, shift=1.5))
    assert [(f.code, f.severity) for f in report.findings] == [("BN030", "info")]


@pytest.mark.parametrize(("size", "codes"), [(31, ()), (32, ("BN030",))])
def test_is_silent_on_a_tiny_target_batch(size, codes):
    x, y = batches(32, 1, shift=1.5)[0]
    assert diagnose(trained(), batches(), target_loader=[(x[:size], y[:size])]).codes == codes


def test_fires_and_asks_for_the_preprocessing(whole):
    report = diagnose(trained(), batches(), target_loader=[(x * 255, y) for x, y in batches(seed=5)])
    assert "preprocessing first" in report.findings[0].message
    whole(report)


def test_is_silent_on_held_out_rows():
    assert diagnose(trained(), batches(), target_loader=batches(seed=5)).findings == ()


def test_is_silent_where_training_data_are_off_too():
    shifted = [(x * 4, y) for x, y in batches()]
    assert "BN030" not in diagnose(trained(), shifted, target_loader=shifted).codes
