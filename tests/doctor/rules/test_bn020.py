import torch
from torch import nn

import batchnorm as bn
from batchnorm.doctor import diagnose
from tests.doctor.networks import rows


class Twice(nn.Module):
    """One layer for two inputs."""

    def __init__(self, shift, growth=1.0):
        super().__init__()
        self.norm, self.out, self.shift, self.growth = nn.BatchNorm1d(4), nn.Linear(4, 1), shift, growth

    def forward(self, x):
        first, second = x.chunk(2)
        return self.out(torch.cat([self.norm(first), self.norm(second * self.growth + self.shift)]))


def test_fires_on_means_apart(whole):
    report = diagnose(Twice(10.0), rows())
    assert report.codes == ("BN020",)
    whole(report)


def test_fires_on_variances_apart(whole):
    report = diagnose(Twice(0.0, growth=3.0), rows(64))
    assert report.codes == ("BN020",)
    whole(report)


def test_is_silent_on_twin_branches():
    assert diagnose(Twice(0.0), rows(128)).findings == ()


def test_is_silent_on_a_layer_with_statistics_for_each_domain():
    class Domains(Twice):
        def __init__(self):
            super().__init__(10.0)
            self.norm = bn.BatchNorm1d(4, stats=bn.stats.Domains(2))

        def forward(self, x):
            first, second = x.chunk(2)
            kinds = self.norm(first, domain=0), self.norm(second + self.shift, domain=1)
            return self.out(torch.cat(kinds))

    assert diagnose(Domains(), rows(), rules=["BN020"]).findings == ()
