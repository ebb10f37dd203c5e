import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import dense_net, rows
from tests.doctor.rules.test_bn023 import Activated
from tests.processes import in_processes


def dense(rank, *sizes):
    return diagnose(dense_net(), rows(sizes[rank]), rules=["BN045"]).findings


def third_party(rank):
    """Images of which the second rank has three times as many, in a layer of another library."""
    images = [torch.randn(8 + 16 * rank, 4, 3, 3)] * 8
    return diagnose(nn.Sequential(Activated(4), nn.Conv2d(4, 2, 1)), images, rules=["BN045"]).findings


def test_fires_on_counts_a_factor_three_apart():
    (finding,) = in_processes(2, dense, 16, 48)[0]
    assert (finding.code, finding.severity) == ("BN045", "info")
    assert finding.evidence == {"least": 16.0, "most": 48.0}


def test_fires_on_a_rank_without_rows():
    (finding,) = in_processes(2, dense, 0, 16)[0]
    assert finding.evidence == {"least": 0.0, "most": 16.0}


def test_fires_as_an_error_on_a_layer_that_may_ignore_counts():
    (finding,) = in_processes(2, third_party)[0]
    assert (finding.code, finding.severity) == ("BN045", "error")


def test_is_silent_on_equal_counts_and_on_a_factor_two():
    assert in_processes(2, dense, 16, 16)[0] == ()
    assert in_processes(2, dense, 16, 32)[0] == ()
