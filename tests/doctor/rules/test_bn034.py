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


def test_is_silent_on_a_model_that_predicts():
    assert diagnose(fresh().eval()).findings == ()


def test_mending_lets_them_train():
    model = frozen(fresh())
    mend(model, diagnose(model), "BN034")
    assert diagnose(model).findings == ()
