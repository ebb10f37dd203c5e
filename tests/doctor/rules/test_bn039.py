import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained


def test_fires_on_small_micro_batches(whole):
    report = diagnose(dense_net(), rows(8), accumulation=4, rules=["BN039"])
    assert report.codes == ("BN039",)
    whole(report)


def test_fires_on_two_values_beside_two_others():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    apart = [torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [11.0]])]
    for x in apart:
        torch.testing.assert_close(model[0](x), torch.tensor([[-1.0], [1.0]]), atol=1e-4, rtol=0)
    report = diagnose(model, apart * 4, accumulation=2, rules=["BN039"])
    assert report.findings[0].evidence == {"accumulation": 2.0, "values": 2.0}


@pytest.mark.parametrize(("size", "codes"), [(15, ("BN039",)), (16, ())])
def test_the_limit_is_sixteen_values(size, codes):
    assert diagnose(dense_net(), rows(size), accumulation=4, rules=["BN039"]).codes == codes


def test_is_silent_on_large_micro_batches():
    assert diagnose(dense_net(), rows(64), accumulation=4).findings == ()


def test_is_silent_on_large_maps():
    assert "BN039" not in diagnose(trained(), batches(4), accumulation=4).codes


def test_is_silent_without_accumulation():
    data = DataLoader(TensorDataset(rows(8)[0]), 8)
    assert "BN039" not in diagnose(dense_net(), data).codes
