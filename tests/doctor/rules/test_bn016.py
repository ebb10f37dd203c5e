import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.rules.mending import mend


def biased(between=None):
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 4, 3), *([between] if between else []), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*parts)


def test_fires_on_a_bias_before_it(whole):
    report = diagnose(biased())
    assert [(f.code, f.severity, f.layer) for f in report.findings] == [("BN016", "info", "1")]
    whole(report)


def test_is_silent_before_frozen_batch_norm():
    model = biased()
    model[1].running_mean += 1
    model[1].num_batches_tracked += 100
    model[1].eval()
    assert diagnose(model).findings == ()


@pytest.mark.parametrize("between", [nn.AvgPool2d(2), nn.ZeroPad2d(1)])
def test_is_silent_with_a_pool_or_padding_between(between):
    assert diagnose(biased(between)).findings == ()


def test_is_silent_with_another_user_of_the_convolution():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y).relu()

    class Twice(Shared):
        def forward(self, x):
            return (self.norm(self.conv(x)) + self.conv(x)).relu()

    assert diagnose(Shared()).findings == ()
    assert diagnose(Twice()).findings == ()


def test_a_forward_that_cannot_be_traced_hides_only_itself():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    (finding,) = diagnose(Branching(biased())).findings
    assert (finding.code, finding.layer, finding.evidence) == ("BN016", "0.1", {"bias": "0.0"})


def test_an_argument_that_may_be_left_out_makes_no_second_finding():
    class Switched(nn.Sequential):
        def forward(self, x, twice=False):
            return super().forward(2 * x if twice else x)

    assert len(diagnose(Switched(biased())).findings) == 1


def test_mending_keeps_every_prediction():
    model = biased()
    x = torch.randn(8, 1, 6, 6)
    with torch.no_grad():
        for _ in range(30):
            model(x)
    before = model.eval()(x)
    mend(model, diagnose(model.train()), "BN016")
    assert model[0].bias is None
    torch.testing.assert_close(model.eval()(x), before)
