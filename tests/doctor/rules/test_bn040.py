import collections

import pytest
import torch
from torch import nn

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
    report = diagnose(nn.BatchNorm1d(4), rows(4), independence="penalty", rules=["BN040"])
    assert report.findings[0].evidence["others"] == pytest.approx(0.56, abs=0.1)
    whole(report)


def test_is_silent_in_prediction_mode():
    assert diagnose(dense_net().eval(), rows(), independence="private").findings == ()


def test_is_silent_on_frozen_layers():
    model = dense_net()
    for row in rows(number=60):
        model(row)
    model[1].eval()
    assert diagnose(model, rows(), independence="private").findings == ()


def test_is_silent_where_nobody_asks():
    assert diagnose(dense_net(), rows()).findings == ()


def test_fires_with_the_share_on_named_tuples():
    Named = collections.namedtuple("Named", "x y")
    data = [Named(row, None) for row in rows(4)]
    report = diagnose(nn.BatchNorm1d(4), data, independence="penalty", rules=["BN040"])
    assert report.findings[0].evidence["others"] == pytest.approx(0.56, abs=0.1)


def test_fires_without_a_share_where_inputs_have_no_gradient():
    model = nn.Sequential(nn.Embedding(9, 4), nn.BatchNorm1d(4), nn.ReLU())
    tokens = [torch.arange(8) for _ in range(2)]
    (finding,) = diagnose(model, tokens, independence="penalty", rules=["BN040"]).findings
    assert finding.evidence == {"layers": 1.0}
