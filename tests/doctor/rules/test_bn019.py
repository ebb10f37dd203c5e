import inspect

import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import rows, trained


class Inside(nn.Module):
    """Makes its layer in the forward."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return nn.BatchNorm1d(3)(self.linear(x))


def test_fires_on_a_layer_made_in_the_forward(whole):
    report = diagnose(Inside(), rows())
    assert report.codes == ("BN019",)
    line = inspect.getsourcelines(Inside.forward)[1] + 1
    assert f"(test_bn019.py, line {line})" in report.findings[0].message
    whole(report)


def test_fires_on_a_conversion_after_the_optimizer(whole):
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model[4] = nn.BatchNorm2d(12)
    report = diagnose(model, optimizer=optimizer)
    assert [(f.code, f.layer) for f in report.findings] == [("BN019", "4")]
    whole(report)


def test_is_silent_on_frozen_weights_left_out():
    model = trained()
    model[4].requires_grad_(False)
    model[4].eval()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    assert diagnose(model, optimizer=optimizer).findings == ()


def test_is_silent_on_lazy_layers_before_their_first_call():
    model = nn.Sequential(nn.LazyConv2d(4, 3, bias=False), nn.LazyBatchNorm2d(), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert diagnose(model, optimizer=optimizer).findings == ()


def test_is_silent_on_registered_layers():
    assert (
        diagnose(nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.Tanh()), rows()).codes == ()
    )


class Listed(nn.Module):
    """Keeps its layer where the module tree does not look."""

    def __init__(self, layer):
        super().__init__()
        self.linear, self.norms = nn.Linear(4, 3), [layer]

    def forward(self, x):
        return self.norms[0](self.linear(x))


def test_fires_on_a_layer_in_a_plain_list(whole):
    whole(diagnose(Listed(nn.BatchNorm1d(3)), rows()))


def test_is_silent_on_a_teacher_in_a_plain_list_that_predicts():
    assert diagnose(Listed(nn.BatchNorm1d(3).eval()), rows()).findings == ()


def test_is_silent_on_another_network_beside_the_models_forward():
    backbone, head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)
    assert diagnose(head, rows(), forward_fn=lambda model, x: model(backbone(x))).findings == ()
