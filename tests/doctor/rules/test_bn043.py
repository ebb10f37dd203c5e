import pytest
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from batchnorm import BatchNorm1d, stats
from batchnorm.doctor import diagnose
from tests.doctor.networks import rows, trained
from tests.processes import in_processes


def apart(rank, shift, mode=True, goal=None):
    """The second rank's mean is so far away."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).train(mode)
    model[0].running_mean += rank * shift
    return diagnose(model, rules=["BN043"], goal=goal).findings


def wrapped(rank, broadcasts):
    """A training under the wrapper, the second rank's data ten away; its mean, and what is found."""
    model = DistributedDataParallel(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)))
    model.broadcast_buffers = broadcasts
    for row in rows(number=60):
        model(row + 10 * rank).sum().backward()
    return model.module[0].running_mean.mean().item(), diagnose(model, rules=["BN043"]).findings


@pytest.mark.parametrize(
    ("mode", "goal", "severity"), [(True, None, "warn"), (False, None, "error"), (True, "export", "error")]
)
def test_fires_on_ranks_apart(mode, goal, severity):
    (finding,) = in_processes(2, apart, 9.94, mode, goal)[0]
    assert (finding.code, finding.severity, finding.layer) == ("BN043", severity, "0")
    assert finding.evidence["apart"] == pytest.approx(9.94)


def test_is_silent_on_ranks_one_update_apart():
    assert in_processes(2, apart, 0.05)[0] == ()


def test_fires_without_the_broadcast():
    (first, findings), (second, _) = in_processes(2, wrapped, False)
    assert (first, second) == pytest.approx((0.01, 9.95), abs=0.1)
    assert [finding.code for finding in findings] == ["BN043"]


def test_is_silent_between_two_broadcasts():
    (first, findings), (second, _) = in_processes(2, wrapped, True)
    assert (first, second) == pytest.approx((0.0, 0.98), abs=0.1)
    assert findings == ()


def synchronized(number):
    model = nn.Sequential(BatchNorm1d(4, stats=stats.Synced()), nn.Linear(4, 1))
    for row in rows(number=20):
        model(row + 10 * number)
    return diagnose(model, rules=["BN043"]).findings


def test_is_silent_on_a_synchronized_layer():
    assert in_processes(2, synchronized)[0] == ()


def test_fires_inside_data_parallel(whole):
    report = diagnose(nn.DataParallel(trained()), rules=["BN043"])
    assert report.codes == ("BN043",)
    whole(report)


def test_is_silent_in_one_process():
    assert diagnose(trained()).findings == ()
