import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose


class Maximum(nn.BatchNorm2d):
    """max(var, eps) under the root."""

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight / self.running_var.clamp_min(self.eps).sqrt()
        return (x - self.running_mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


class Outside(Maximum):
    """eps outside the root."""

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight / (self.running_var.sqrt() + self.eps)
        return (x - self.running_mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


class Divided(Maximum):
    """Statistics to be divided by a scale factor."""

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight / (self.running_var / 4 + self.eps).sqrt()
        return (x - self.running_mean.view(shape) / 4) * scale.view(shape) + self.bias.view(shape)


class Activated(nn.BatchNorm2d):
    """With a leaky ReLU of its own."""

    def forward(self, x):
        return nn.functional.leaky_relu(super().forward(x), 0.01)


class Absolute(nn.BatchNorm2d):
    """Uses the size of the weight."""

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight.abs(), self.bias, self.training
        )


class Biased(nn.BatchNorm2d):
    """Stores the biased variance, as another framework does."""

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                var = x.var((0, 2, 3), correction=0)
                self.running_mean.lerp_(x.mean((0, 2, 3)), self.momentum)
                self.running_var.lerp_(var, self.momentum)
        statistics = (None, None) if self.training else (self.running_mean, self.running_var)
        return nn.functional.batch_norm(x, *statistics, self.weight, self.bias, self.training, eps=self.eps)


class Renormalized(nn.BatchNorm2d):
    """Batch renormalization whose r has the unbiased variance."""

    def forward(self, x):
        y = super().forward(x)
        if not self.training:
            return y
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True)
        return y * var.sqrt() + mean


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Maximum, "the larger of var and eps"),
        (Outside, "eps outside the root"),
        (Divided, "a scale of 169 at variance 0.0001 where torch's has 95.35"),
        (Activated, "an activation: negative outputs are multiplied by 0.01"),
        (Absolute, "the size of the weight"),
        (Biased, "it stores the biased variance"),
        (Renormalized, "in training a value one standard deviation above the batch's mean leaves as"),
    ],
)
def test_fires_on(layer, words, whole):
    report = diagnose(nn.Sequential(layer(3), nn.ReLU()))
    assert (report.codes, report.severity) == (("BN023",), "info")
    assert words in report.findings[0].message
    whole(report)


def test_fires_as_an_error_where_it_would_be_folded(whole):
    whole(diagnose(nn.Sequential(Activated(3), nn.ReLU()).eval(), goal="fold", rules=["BN023"]))


def test_is_silent_on_a_subclass_that_only_shows_itself_otherwise():
    class Named(nn.BatchNorm2d):
        def extra_repr(self):
            return "mine"

    class Same(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x)

    assert diagnose(nn.Sequential(Named(3), Same(3), nn.ReLU())).findings == ()


def test_is_silent_on_instance_norm_with_statistics_and_on_a_spectral_norm():
    conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1))
    model = nn.Sequential(conv, nn.InstanceNorm2d(3, track_running_stats=True), nn.ReLU())
    assert diagnose(model).findings == ()


def test_is_silent_on_fixed_layers_of_other_libraries():
    class FrozenBatchNorm2d(nn.Module):
        def __init__(self, channels):
            super().__init__()
            for key, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                self.register_buffer(key, torch.full((channels,), value))

        def forward(self, x):
            scale = self.weight * self.running_var.rsqrt()
            return x * scale.view(1, -1, 1, 1) + (self.bias - self.running_mean * scale).view(1, -1, 1, 1)

    assert diagnose(nn.Sequential(FrozenBatchNorm2d(3), nn.ReLU())).findings == ()


def test_is_silent_on_a_subclass_that_keeps_tensors_of_a_graph():
    class Keeps(nn.BatchNorm2d):
        def forward(self, x):
            self.seen = [x.mean((0, 2, 3))]
            return super().forward(x)

    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), Keeps(3), nn.ReLU())
    model(torch.randn(4, 3, 2, 2))
    assert model[1].seen[0].requires_grad
    report = diagnose(model, rules=["BN023"])
    assert (report.findings, report.skipped) == ((), {})
