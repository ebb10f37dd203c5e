import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained


class Activated(nn.BatchNorm2d):
    """What a conversion would drop."""

    def forward(self, x):
        return super().forward(x).relu()


def synced(**options):
    return nn.Sequential(nn.SyncBatchNorm(3, **options), nn.ReLU())


@pytest.mark.parametrize("case", ["data parallel", "untracked", "cpu", "subclass"])
def test_fires_on(case, whole):
    model, ranks = {
        "data parallel": (nn.DataParallel(synced()), 1),
        "untracked": (synced(track_running_stats=False), 1),
        "cpu": (synced(), 2),
        "subclass": (nn.Sequential(Activated(3), nn.ReLU()), 2),
    }[case]
    report = diagnose(model, ranks=ranks, rules=["BN042"])
    assert report.codes == ("BN042",)
    whole(report)


def test_is_silent_on_one_process():
    assert diagnose(synced()).findings == ()


def test_is_silent_on_a_conversion_before_the_optimizer():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(trained())
    assert diagnose(model, optimizer=torch.optim.SGD(model.parameters(), 0.1)).findings == ()


def test_is_silent_on_plain_layers_that_will_be_converted():
    assert diagnose(trained(), ranks=2).findings == ()
