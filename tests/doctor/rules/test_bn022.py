import pytest
from torch import nn

import batchnorm as bn
from batchnorm.doctor import diagnose


def test_fires_on_a_last_layer(whole):
    report = diagnose(nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)))
    assert [(f.code, f.severity) for f in report.findings] == [("BN022", "info")]
    assert "Right for an embedding, wrong for a regression." in report.findings[0].message
    whole(report)


def test_is_silent_before_a_last_layer():
    assert diagnose(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))).findings == ()


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"avg_pool": 2}], ids=str)
def test_is_silent_where_the_layer_does_more(options):
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), bn.BatchNorm2d(3, **options))
    assert diagnose(model).findings == ()
