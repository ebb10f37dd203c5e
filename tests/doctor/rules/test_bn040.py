import pytest

from batchnorm.doctor import diagnose
from tests.doctor.networks import dense_net, rows


@pytest.mark.parametrize(
    ("why", "severity"), [("private", "error"), ("penalty", "warn"), ("contrastive", "warn")]
)
def test_fires_where_samples_must_be_independent(why, severity, whole):
    report = diagnose(dense_net(), independence=why)
    assert (report.codes, report.severity) == (("BN040",), severity)
    whole(report)


def test_fires_with_the_share_of_other_samples(whole):
    report = diagnose(dense_net(), rows(4), independence="penalty", rules=["BN040"])
    assert 0.2 < report.findings[0].evidence["others"] < 0.8
    whole(report)


def test_is_silent_in_prediction_mode():
    assert diagnose(dense_net().eval(), rows(), independence="private").findings == ()


def test_is_silent_where_nobody_asks():
    assert diagnose(dense_net(), rows()).findings == ()
