import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.doctor import diagnose
from tests.doctor.networks import rows
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


def linear(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh())


def sequences(length):
    return [torch.randn(16, length, 4, generator=torch.Generator().manual_seed(n)) for n in range(8)]


def test_a_bias_of_another_size_is_not_taken_off_the_mean():
    """A convolution of one unbatched sample: batch norm takes its channels for samples."""
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(9), nn.Tanh())
    model(torch.randn(4, 9))
    _, done = diagnose(model, rules=["BN016"]).fix(model, consent=["BN016"])
    assert done.mended[0].reason == "fix: bias of layer 0 expected as many values as running_mean, got 6"


def test_is_only_suspected_behind_a_linear_layer_whose_input_nobody_saw():
    model = linear(nn.BatchNorm1d(6))
    report = diagnose(model)
    assert [(f.code, f.state) for f in report.findings] == [("BN016", "suspected")]
    assert "has no effect, if its input is (N, C): " in report.findings[0].message
    _, done = report.fix(model, consent=["BN016"])
    assert done.mended[0].reason == (
        "fix: data expected to show that the input of layer 1 is (N, C), got none: else the bias has an "
        "effect"
    )


def test_fires_behind_a_linear_layer_with_rows():
    report = diagnose(linear(nn.BatchNorm1d(6)), rows(), rules=["BN016"])
    assert [(f.code, f.state) for f in report.findings] == [("BN016", "found")]


@pytest.mark.parametrize("length", [6, 10])
def test_is_silent_behind_a_linear_layer_with_the_bias_on_the_last_axis(length):
    assert diagnose(linear(nn.BatchNorm1d(length)), sequences(length), rules=["BN016"]).findings == ()


def test_the_layers_own_axis_counts():
    last = linear(bn.BatchNorm1d(6, channel_dim=-1))
    assert diagnose(last).codes == ("BN016",)
    assert diagnose(last, sequences(10), rules=["BN016"]).codes == ("BN016",)
    turned = nn.Sequential(nn.Conv1d(4, 6, 1), bn.BatchNorm1d(9, channel_dim=-1), nn.Tanh())
    assert diagnose(turned, [torch.randn(16, 4, 9)] * 8, rules=["BN016"]).findings == ()


def test_a_forward_that_cannot_be_traced_hides_only_itself():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    (finding,) = diagnose(Branching(biased())).findings
    assert (finding.code, finding.layer, finding.evidence) == ("BN016", "0.1", {"bias_of_layer": "0.0"})


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
    said = mend(model, diagnose(model.train()), "BN016")
    assert said == ["layer 0 has no bias now: build it with bias=False; predictions are the same"]
    assert model[0].bias is None
    torch.testing.assert_close(model.eval()(x), before)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, bn.BatchNorm2d])
def test_mending_a_fresh_model_makes_no_new_finding(norm):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 3), norm(4), nn.ReLU())
    fixed, done = diagnose(model).fix(model, consent=["BN016"])
    assert [one.done for one in done.mended] == [
        "layer 0 has no bias now: build it with bias=False",
        "layer 3 has no bias now: build it with bias=False",
    ]
    assert done.remaining == ()
    assert not fixed[1].running_mean.any()
