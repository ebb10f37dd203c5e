import torch
import torch.multiprocessing as mp
from torch import distributed

from batchnorm.doctor import diagnose
from tests.doctor.networks import dense_net, rows


def _rank(rank, folder, sizes, queue):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(sizes)
    )
    report = diagnose(dense_net(), rows(sizes[rank]), rules=["BN045"])
    if rank == 0:
        queue.put([(finding.code, finding.severity, dict(finding.evidence)) for finding in report.findings])
    distributed.barrier()
    distributed.destroy_process_group()


def findings(folder, *sizes):
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, (str(folder), sizes, queue), nprocs=len(sizes))
    return queue.get()


def test_fires_on_counts_a_factor_three_apart(tmp_path):
    assert findings(tmp_path, 16, 48) == [("BN045", "info", {"least": 16.0, "most": 48.0})]


def test_is_silent_on_equal_counts(tmp_path):
    assert findings(tmp_path, 16, 16) == []
