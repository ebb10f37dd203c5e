import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import NORMS, batches, trained
from tests.doctor.rules.mending import mend


def frozen(*names):
    model = trained()
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return model


def test_fires_on_frozen_parameters_in_training_mode(whole):
    report = diagnose(frozen("4"), batches())
    assert [(f.code, f.layer, f.severity) for f in report.findings] == [("BN033", "4", "warn")]
    whole(report)


def test_fires_on_a_layer_whose_mean_follows_the_batch():
    model = nn.Sequential(nn.BatchNorm1d(3).requires_grad_(False), nn.Linear(3, 1))
    model(torch.randn(512, 3, generator=torch.Generator().manual_seed(0)) + 2)
    torch.testing.assert_close(model[0].running_mean, torch.full((3,), 0.2), atol=0.02, rtol=0)
    assert diagnose(model).codes == ("BN033",)


def test_fires_as_an_error_on_a_whole_backbone(whole):
    report = diagnose(frozen(*NORMS))
    assert {finding.severity for finding in report.findings} == {"error"}
    whole(report)


def test_fires_on_a_module_the_user_calls_frozen(whole):
    whole(diagnose(nn.Sequential(trained(), nn.Linear(4, 4)), frozen=["0.1"]))


def test_is_silent_on_a_layer_in_prediction_mode():
    model = frozen("4")
    model[4].eval()
    assert diagnose(model, batches()).findings == ()


def test_is_silent_on_a_layer_that_train_does_not_reach():
    model = frozen("4")
    model[4].eval()
    model[4].train = lambda mode=True: model[4]
    model.train()
    assert diagnose(model, batches()).findings == ()


def test_is_silent_where_weight_and_bias_still_train():
    model = trained()
    for name in ("0", "3", "6"):
        model.get_submodule(name).requires_grad_(False)
    assert diagnose(model, batches()).findings == ()


def test_mending_survives_train():
    model = frozen("4")
    before = model[4].running_mean.clone()
    mend(model, diagnose(model), "BN033")
    model.train()(batches()[0][0])
    assert torch.equal(model[4].running_mean, before)
    assert diagnose(model, batches()).findings == ()


def test_mending_a_class_of_its_own_puts_it_into_prediction_mode():
    class Named(nn.BatchNorm2d):
        def extra_repr(self):
            return "mine"

    model = nn.Sequential(Named(1).requires_grad_(False), nn.ReLU())
    (done,) = mend(model, diagnose(model, rules=["BN033"]), "BN033")
    assert done.startswith("in prediction mode now")
    assert not model[0].training
