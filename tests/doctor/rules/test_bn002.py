import math

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d
from batchnorm.doctor import diagnose
from tests.doctor.networks import Auxiliary, batches, dense_net, fresh, rows, train, trained
from tests.doctor.rules.mending import mend


def poisoned():
    """A forward with an infinite value, of a step that a loss scaler would skip."""
    model, data = fresh(), batches()
    broken = data[0][0].clone()
    broken[0, 0, 0, 0] = math.inf
    with torch.no_grad():
        model(broken)
    return model


def test_fires_on_one_infinite_value(whole):
    report = diagnose(poisoned(), batches())
    assert report.codes == ("BN002",)
    assert [finding.layer for finding in report.findings] == ["1", "4", "7"]
    whole(report)


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_fires_on_a_variance_that_is_none(value, whole):
    layer = nn.BatchNorm1d(2)
    layer.running_var[1] = value
    report = diagnose(layer.state_dict())
    assert report.codes == ("BN002",)
    whole(report)


def test_fires_on_weights_and_offers_no_cure(whole):
    layer = nn.BatchNorm1d(2)
    with torch.no_grad():
        layer.weight[0] = math.nan
    report = diagnose(layer.state_dict())
    assert report.findings[0].fix.kind == "advice"
    whole(report)


def test_fires_after_two_thousand_clean_batches():
    model, broken = dense_net(), rows()[0].clone()
    broken[0, 0] = math.inf
    with torch.no_grad():
        for row in [broken, *rows() * 100]:
            model(row)
    assert diagnose(model, rows()).codes == ("BN002",)


def test_fires_first_on_the_layer_that_runs_first():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.second(self.first(x)).tanh()

    model = Backwards()
    model.first.running_var[2:] = math.nan
    model.second.running_mean[0] = math.nan
    first, second, *_ = diagnose(model, rows()).findings
    assert [(f.code, f.layer) for f in (first, second)] == [("BN002", "first"), ("BN002", "second")]
    assert "running_var in channels 2, 3." in first.message


def test_is_silent_with_the_guarded_layer_and_a_step_that_the_scaler_skips():
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), BatchNorm1d(6, nonfinite="skip"), nn.ReLU(), nn.Linear(6, 2)
    )
    optimizer, data = torch.optim.SGD(model.parameters(), 0.1), rows(number=60)
    data[30] = data[30] * math.inf
    scaler = torch.amp.GradScaler("cpu")
    for row in data:
        optimizer.zero_grad()
        scaler.scale(model(row).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2**15  # halved once: the step was skipped
    assert diagnose(model).findings == ()


def test_is_silent_on_a_variance_that_rounds_to_zero():
    layer = nn.BatchNorm1d(2)
    layer.running_var[1] = -1e-13
    assert "BN002" not in diagnose(layer.state_dict()).codes


def test_mending_resets_bad_channels_and_measures():
    model = train(trained(), batches(), 1)
    model[4].running_var[3] = math.nan
    mend(model, diagnose(model, batches()), "BN002", batches())
    assert diagnose(model, batches()).findings == ()


def without_variance(rows):
    """Conversions and allocations lose a variance."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    for row in rows:
        model(row)
    model[1].running_var.zero_()
    return model


def test_fires_on_a_variance_of_zero_in_every_channel(whole):
    report = diagnose(without_variance(rows()))
    assert [(f.code, f.severity, f.state) for f in report.findings] == [("BN002", "warn", "suspected")]
    whole(report)


def test_fires_on_a_variance_of_zero_in_a_checkpoint():
    state = without_variance(rows()).state_dict()
    assert [(f.code, f.severity) for f in diagnose(state).findings] == [("BN002", "warn")]
    del state["1.num_batches_tracked"]  # as of a frozen layer
    assert diagnose(state).codes == ("BN002",)
    state["1.num_batches_tracked"] = torch.tensor(0)
    assert "BN002" not in diagnose(state).codes


def test_fires_as_an_error_on_a_variance_of_zero_where_inputs_vary(whole):
    report = diagnose(without_variance(rows()), rows())
    assert [(f.code, f.severity, f.state) for f in report.findings] == [("BN002", "error", "confirmed")]
    whole(report)


def test_is_withdrawn_where_no_input_varies():
    constant = [row * 0 for row in rows()]
    report = diagnose(without_variance(constant), constant)
    assert "BN002" not in report.codes
    assert "BN002" in [finding.code for finding in report.withdrawn]


def test_is_silent_on_one_channel_without_variance():
    model = without_variance(rows())
    model[1].running_var[1:] = 1.0
    assert "BN002" not in diagnose(model).codes


def test_is_silent_on_a_variance_of_zero_that_a_layer_of_its_own_begins_with():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(4))
            self.register_buffer("running_var", torch.zeros(4))
            self.register_buffer("num_batches_tracked", torch.tensor(0))

    assert "BN002" not in diagnose(nn.Sequential(Own(), nn.Linear(4, 1))).codes


def test_mending_measures_a_variance_of_zero():
    model = without_variance(rows())
    mend(model, diagnose(model, rows()), "BN002", rows())
    assert diagnose(model, rows()).findings == ()


def test_a_layer_that_the_data_do_not_reach_stays_suspected():
    model = Auxiliary()
    model.head.running_var.zero_()
    (finding,) = diagnose(model, batches(), rules=["BN002"]).findings
    assert (finding.layer, finding.state) == ("head", "suspected")
