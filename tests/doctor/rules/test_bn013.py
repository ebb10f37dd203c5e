import pytest
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained
from tests.doctor.rules.mending import mend


def layer(var, eps):
    model = nn.Sequential(nn.BatchNorm1d(2, eps=eps), nn.Linear(2, 1)).eval()
    model[0].running_var.fill_(var)
    model[0].num_batches_tracked.fill_(100)
    return model


def test_fires_where_variances_are_small(whole):
    model = layer(1e-4, 1e-3)
    report = diagnose(model, source_eps=1e-5)
    assert (report.codes, report.severity) == (("BN013",), "error")
    # x 0.01: 0.3015 with 1e-3, 0.9535 with 1e-5
    assert 1 + report.findings[0].evidence["impact"] == pytest.approx(0.9535 / 0.3015, rel=1e-3)
    whole(report)


def test_fires_on_the_odd_one_out_as_information(whole):
    model = trained()
    model[4].eps = 1e-3
    report = diagnose(model)
    assert [(f.code, f.severity, f.layer) for f in report.findings] == [("BN013", "info", "4")]
    whole(report)


def test_fires_on_an_eps_that_is_nearly_zero(whole):
    whole(diagnose(layer(1.0, 1e-12)))


@pytest.mark.parametrize("var", [9.9e-3, 1.01e-2])
def test_fires_on_an_eps_above_a_tenth_of_the_median_variance(var):
    report = diagnose(layer(var, 1e-3))
    assert [(f.code, f.severity) for f in report.findings] == [("BN013", "info")] * (var < 1e-2)


def test_is_silent_where_variances_are_far_above():
    report = diagnose(layer(1.0, 1e-3), source_eps=1e-5)
    assert [(f.code, f.severity) for f in report.findings] == [("BN013", "info")]  # 0.05 percent
    assert report.findings[0].evidence["impact"] < 6e-4


def test_is_silent_where_the_source_agrees():
    assert diagnose(layer(1e-4, 1e-3), source_eps={"0": 1e-3}).findings == ()


def test_is_silent_without_a_source_if_all_agree():
    assert diagnose(trained()).findings == ()


def test_mending_sets_the_sources_eps():
    model = layer(1e-4, 1e-3)
    assert mend(model, diagnose(model, source_eps=1e-5), "BN013") == ["eps 0.001 is now 1e-05"]
    assert diagnose(model, source_eps=1e-5).findings == ()
