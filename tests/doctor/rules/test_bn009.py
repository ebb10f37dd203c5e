import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import batchnorm as bn
from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from batchnorm.nn.statistics import Frozen
from tests.doctor.networks import batches, rows, trained


def averaged():
    """An average of moving weights, with the statistics of the last ones."""
    live = trained()
    model = AveragedModel(live)
    with torch.no_grad():
        for number in range(3):
            for parameter in live.parameters():
                parameter += 0.3 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(number)
                )
            model.update_parameters(live)
    return model


def test_fires_on_an_average_without_its_buffers(whole):
    report = diagnose(averaged(), rules=["BN009"])
    assert (report.codes, report.findings[0].state) == (("BN009",), "suspected")
    whole(report)


def test_fires_and_is_confirmed_or_explained_by_data(whole):
    report = diagnose(averaged(), batches(), rules=["BN009"])
    assert (report.codes, report.findings[0].state) == (("BN009",), "confirmed")
    whole(report)


@pytest.mark.parametrize("recipe", ["parameters", "buffers", "update_bn", "clients"])
def test_fires_on_the_recipe(recipe, whole):
    whole(diagnose(trained(), averaging=recipe))


def test_fires_as_an_error_on_update_bn_with_a_frozen_layer(whole):
    model = trained()
    model[4].eval()
    report = diagnose(model, averaging="update_bn")
    assert (report.codes, report.severity) == (("BN009",), "error")
    whole(report)


def test_fires_on_what_update_bn_does_to_a_frozen_layer():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[0].running_mean.fill_(3.0)
    model[0].num_batches_tracked.fill_(1000)
    model[0].eval()
    assert diagnose(model, averaging="update_bn").codes == ("BN009",)
    update_bn([row + 7.2 for row in rows()], model)
    torch.testing.assert_close(model[0].running_mean, torch.full((4,), 7.2), atol=0.1, rtol=0)


def test_is_silent_about_frozen_statistics_which_update_bn_leaves():
    model = nn.Sequential(bn.BatchNorm1d(4, stats=Frozen()), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
    model[0].running_mean.fill_(3.0)
    model[0].num_batches_tracked.fill_(1000)
    (finding,) = diagnose(model, averaging="update_bn", rules=["BN009"]).findings
    assert (finding.severity, finding.layer) == ("warn", None)
    update_bn(rows(), model)
    assert model[0].running_mean.tolist() == [3.0] * 4
    assert diagnose(model[:2], averaging="update_bn", rules=["BN009"]).findings == ()


def test_is_silent_on_an_average_that_was_recalibrated():
    model = averaged()
    recalibrate(model, batches())
    assert diagnose(model, batches()).findings == ()
    assert diagnose(trained(), averaging="recalibrate").findings == ()


def test_is_silent_without_batch_norm():
    assert diagnose(nn.Linear(2, 2), averaging="parameters").findings == ()
