import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained


def _rank(rank, folder, shift, queue):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[0].running_mean += rank * shift
    report = diagnose(model, rules=["BN043"])
    if rank == 0:
        queue.put([finding.to_dict() for finding in report.findings])
    distributed.barrier()
    distributed.destroy_process_group()


def findings(folder, shift):
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    mp.spawn(_rank, (str(folder), shift, queue), nprocs=2)
    return queue.get()


def test_fires_on_ranks_apart(tmp_path):
    (finding,) = findings(tmp_path, 9.94)
    assert (finding["code"], finding["severity"], finding["layer"]) == ("BN043", "error", "0")
    assert finding["evidence"]["apart"] == pytest.approx(9.94)


def test_is_silent_on_ranks_one_update_apart(tmp_path):
    assert findings(tmp_path, 0.05) == []


def test_fires_inside_data_parallel(whole):
    report = diagnose(nn.DataParallel(trained()), rules=["BN043"])
    assert report.codes == ("BN043",)
    whole(report)


def test_is_silent_in_one_process():
    assert diagnose(trained()).findings == ()
