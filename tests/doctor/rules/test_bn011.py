import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained
from tests.doctor.rules.mending import mend


def ported(size=16):
    model = dense_net(8, momentum=0.99)
    with torch.no_grad():
        for row in rows(size, 40, seed=5):
            model(row)
    return model


def test_fires_on_the_other_convention(whole):
    report = diagnose(ported())
    assert (report.codes, report.findings[0].state) == (("BN011",), "suspected")
    whole(report)


@pytest.mark.parametrize(("momentum", "words"), [(0.9, "elsewhere it is a usual"), (0.7, "where it means")])
def test_fires_and_names_what_is_usual_elsewhere(momentum, words):
    assert words in diagnose(dense_net(momentum=momentum)).findings[0].message


def test_fires_for_information_on_the_momentum_of_a_recalibration_loop(whole):
    report = diagnose(dense_net(momentum=1.0))
    assert (report.codes, report.severity) == (("BN011",), "info")
    whole(report)


def test_fires_as_an_error_where_a_batch_is_small(whole):
    report = diagnose(ported(), rows(16))
    assert (report.codes, report.severity) == (("BN011",), "error")
    whole(report)


@pytest.mark.parametrize("momentum", [0.1, 0.49, None])
def test_is_silent_on_the_usual_momentum(momentum):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 1))
    assert diagnose(model).findings == ()


def test_is_withdrawn_where_a_batch_is_worth_many_values():
    data = rows(512)
    report = diagnose(ported(512), data)
    assert report.findings == ()
    assert [f.code for f in report.withdrawn] == ["BN011"]


def test_mending_takes_the_complement_and_measures():
    model = ported()
    assert mend(model, diagnose(model, rows(16)), "BN011", rows(16))[0].startswith(
        "momentum 0.99 is now 0.01; "
    )
    assert model[1].momentum == 0.01
    assert diagnose(trained(momentum=0.01), batches(), rules=["BN011"]).findings == ()
