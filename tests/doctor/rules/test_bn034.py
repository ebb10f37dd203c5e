import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, norms, trained
from tests.doctor.rules.mending import mend


def frozen(model):
    for norm in norms(model):
        norm.eval()
    return model


def test_fires_on_frozen_layers_from_scratch(whole):
    report = diagnose(frozen(fresh()), batches())
    assert report.codes == ("BN034",)
    whole(report)


def test_fires_although_the_weights_trained(whole):
    model = frozen(fresh())
    nn.init.constant_(model[1].weight, 1.2)
    report = diagnose(model)
    assert report.codes == ("BN034",)
    whole(report)


def test_is_silent_on_layers_frozen_after_loading():
    assert diagnose(frozen(trained()), batches()).findings == ()


class FrozenBatchNorm2d(nn.Module):
    """An affine map by design, of statistics that nobody measures."""

    def __init__(self, channels):
        super().__init__()
        for key, value in (("weight", 2.0), ("bias", 0.5), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(key, torch.full((channels,), value))

    def forward(self, x):
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def test_is_silent_on_a_fixed_affine_map():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), FrozenBatchNorm2d(3), nn.ReLU())
    assert diagnose(model, [x for x, _ in batches()]).findings == ()


def test_is_silent_on_a_model_that_predicts():
    assert diagnose(fresh().eval()).findings == ()


def test_mending_lets_them_train():
    model = frozen(fresh())
    mend(model, diagnose(model), "BN034")
    assert diagnose(model).findings == ()
