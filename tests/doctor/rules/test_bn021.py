import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import rows
from tests.doctor.rules.mending import mend


def run(*layers, mean=2.0):
    """A network trained by many forwards on rows with a mean, so that dropout shows."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for row in rows(number=60, seed=3):
            model(row * 0.1 + mean)
    return model


DATA = [row * 0.1 + 2.0 for row in rows(64)]


def before():
    return run(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_fires_without_data_as_a_suspicion(whole):
    report = diagnose(before())
    assert [(f.code, f.severity, f.state) for f in report.findings] == [("BN021", "info", "suspected")]
    whole(report)


def test_fires_and_is_confirmed_by_data(whole):
    report = diagnose(before(), DATA)
    assert [(f.code, f.severity, f.state) for f in report.findings] == [("BN021", "warn", "confirmed")]
    whole(report)


def test_fires_through_a_linear_layer(whole):
    whole(
        diagnose(run(nn.Dropout(0.5), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.BatchNorm1d(4), nn.Tanh()))
    )


def test_is_silent_on_dropout_after_it():
    model = run(nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 1))
    assert diagnose(model, DATA).findings == ()


def test_is_silent_on_dropout_that_drops_nothing():
    model = run(nn.Dropout(0.0), nn.BatchNorm1d(4), nn.Linear(4, 1))
    assert diagnose(model, DATA).findings == ()


def test_is_withdrawn_where_the_noise_is_lost_in_a_wide_layer():
    torch.manual_seed(0)
    wide = nn.Linear(256, 4, bias=False)
    nn.init.uniform_(wide.weight, 0.0, 1.0)
    model = nn.Sequential(nn.Dropout(0.5), wide, nn.BatchNorm1d(4), nn.Tanh())
    data = [row[:, :1] + 0.3 * row for row in rows(64, width=256)]
    with torch.no_grad():
        for row in data * 3:
            model(row)
    report = diagnose(model, data)
    assert report.findings == ()
    assert [f.code for f in report.withdrawn] == ["BN021"]


def test_is_withdrawn_at_a_small_rate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.02), nn.BatchNorm1d(4), nn.Linear(4, 1))
    data = rows(64)
    with torch.no_grad():
        for row in rows(number=60, seed=3):
            model(row)
    report = diagnose(model, data)
    assert report.findings == ()
    assert [f.code for f in report.withdrawn] == ["BN021"]


def test_mending_measures_without_dropout():
    model = before()
    mend(model, diagnose(model, DATA), "BN021", DATA)
    assert model[1].running_var.max() < 0.02


class Functional(nn.Module):
    """Dropout as a function, its rate by position."""

    def __init__(self, rate):
        super().__init__()
        self.norm, self.out, self.rate = nn.BatchNorm1d(4), nn.Linear(4, 1), rate

    def forward(self, x):
        return self.out(self.norm(nn.functional.dropout(x, self.rate, self.training)))


def test_fires_on_a_function_with_the_rate_that_it_was_given():
    assert diagnose(Functional(0.3)).findings[0].evidence == {"rate": 0.3}


def test_is_silent_on_a_function_that_drops_nothing():
    assert diagnose(Functional(0.0)).findings == ()


def test_is_silent_on_a_layer_that_keeps_no_statistics():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1))
    assert diagnose(model, DATA).codes == ("BN014",)
