from torch.utils.data import DataLoader, TensorDataset

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained


def test_fires_on_small_micro_batches(whole):
    report = diagnose(dense_net(), rows(8), accumulation=4, rules=["BN039"])
    assert report.codes == ("BN039",)
    whole(report)


def test_is_silent_on_large_micro_batches():
    assert diagnose(dense_net(), rows(64), accumulation=4).findings == ()


def test_is_silent_on_large_maps():
    assert "BN039" not in diagnose(trained(), batches(4), accumulation=4).codes


def test_is_silent_without_accumulation():
    data = DataLoader(TensorDataset(rows(8)[0]), 8)
    assert "BN039" not in diagnose(dense_net(), data).codes
