import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, rows, train
from tests.doctor.rules.mending import mend


def untracked():
    return train(fresh(track_running_stats=False), batches(), 1)


@pytest.mark.parametrize(("goal", "severity"), [(None, "warn"), ("export", "error")])
def test_fires_on_a_layer_without(goal, severity, whole):
    report = diagnose(untracked().eval(), batches(), goal=goal)
    assert (report.codes, report.severity) == (("BN014",), severity)
    whole(report)


def test_fires_where_one_row_cannot_be_scored():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1)).eval()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.ones(1, 4))
    report = diagnose(model, rows(), predict_fn=lambda model, batch: model(batch[:1]))
    assert report.codes == ("BN014",)


def test_is_silent_on_instance_norm():
    assert diagnose(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.ReLU())).findings == ()


def test_is_silent_on_a_layer_with_statistics():
    assert diagnose(fresh()).findings == ()


def test_mending_gives_it_statistics():
    model = untracked()
    mend(model, diagnose(model), "BN014", batches())
    assert diagnose(model, batches()).findings == ()


@pytest.mark.parametrize("affine", [True, False])
def test_mending_takes_the_networks_dtype(affine):
    options = {"track_running_stats": False, "affine": affine}
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, **options), nn.Linear(3, 1)).double()
    data = [row.double() for row in rows()]
    mend(model, diagnose(model, data), "BN014", data)
    assert model[1].running_var.dtype == torch.float64
    assert model.eval()(data[0]).dtype == torch.float64
