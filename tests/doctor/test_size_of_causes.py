"""A cause takes back another finding only as far as it explains its size; nothing is both sound and wrong."""

import pytest
import torch
from torch import nn

from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from tests.doctor.networks import rows


def dropped():
    """Batch norm behind dropout, with the statistics of training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(8, 32, bias=False), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.5)),
        *(nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 3)),
    )
    for row in rows(64, 300, 8):
        model(row)
    return model


def small(batches, size=64, momentum=0.1, scale=0.02):
    """After some batches, whose variance is far below the initial 1."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16, momentum=momentum), nn.ReLU(), nn.Linear(16, 2)
    )
    nn.init.normal_(model[0].weight, std=scale)
    for row in rows(size, batches, 8):
        model(row)
    return model


DATA = rows(64, width=8, seed=1)


def graver(report):
    return [(finding.code, finding.severity) for finding in report.findings if finding.severity != "info"]


def test_dropout_alone_is_one_finding():
    assert graver(diagnose(dropped(), DATA)) == [("BN021", "warn")]


def test_statistics_measured_without_dropout_are_sound():
    model = dropped()
    recalibrate(model, DATA)
    report = diagnose(model, DATA)
    assert graver(report) == []
    assert [(f.code, f.message.rpartition("Withdrawn: ")[-1]) for f in report.withdrawn] == [
        ("BN021", "its running variance is that of prediction.")
    ]


def test_statistics_of_other_weights_behind_dropout_are_not_sound():
    model = dropped()
    recalibrate(model, DATA)
    model[4].weight.data *= 2
    assert graver(diagnose(model, DATA)) == [("BN027", "error"), ("BN021", "warn")]


def test_dropout_explains_no_mean_that_is_elsewhere():
    model = dropped()
    model[5].running_mean.add_(10 * model[5].running_var.sqrt())
    assert graver(diagnose(model, DATA)) == [("BN027", "error"), ("BN021", "warn")]


def test_dropout_explains_no_variance_of_zero():
    model = dropped()
    model[5].running_var[:28] = 0
    assert graver(diagnose(model, DATA)) == [("BN027", "error"), ("BN021", "warn")]


@pytest.mark.parametrize("batches", [10, 28, 29, 35, 40, 50])
def test_a_variance_below_the_initial_one_takes_longer_and_is_no_outlier(batches):
    report = diagnose(small(batches), DATA)
    assert graver(report) == [("BN012", "warn")]
    assert {finding.state for finding in report.findings} == {"confirmed"}
    assert "BN027" in [finding.code for finding in report.withdrawn]


def test_it_is_suspected_without_data_too():
    assert graver(diagnose(small(40))) == [("BN012", "warn")]
    assert graver(diagnose(small(80))) == []


def test_it_is_seen_on_data_where_nothing_but_rounding_is_left_of_the_variance():
    model = small(40, scale=1e-4)
    assert graver(diagnose(model)) == []
    assert graver(diagnose(model, DATA)) == [("BN012", "warn")]


def test_a_channel_of_zeros_tells_nothing_of_the_initial_variance():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    for row in rows(number=50):
        model(row * torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert diagnose(model, rules=["BN012"]).findings == ()


def test_it_is_one_finding_of_many_layers_and_not_that_of_other_weights():
    torch.manual_seed(0)
    blocks = [
        (nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False))
        for _ in range(3)
    ]
    model = nn.Sequential(*(layer for block in blocks for layer in block), nn.BatchNorm1d(8), nn.ReLU())
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.03)
    for row in rows(64, 45, 8):
        model(row)
    report = diagnose(model, DATA)
    assert set(graver(report)) == {("BN012", "warn")}
    assert "BN008" in [finding.code for finding in report.withdrawn]


def test_initial_values_do_not_explain_a_wild_batch():
    model = small(20, scale=1.0)
    model(1000 * DATA[0])
    for row in DATA[1:8]:
        model(row)
    assert ("BN003", "error") in graver(diagnose(model, DATA))


def test_initial_values_of_two_layers_do_not_explain_a_wild_batch_in_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh())
    nn.init.normal_(model[1].weight, std=0.02)
    for row in (1000 * DATA[0], *rows(64, 20, 8)):
        model(row)
    found = [(f.code, f.severity, f.layer) for f in diagnose(model, DATA).findings if f.severity != "info"]
    assert found == [("BN003", "error", "0"), ("BN012", "warn", "0"), ("BN012", "warn", "2")]


def test_a_small_weight_is_withdrawn_where_most_of_the_gap_is_not_its_own():
    model = small(60)
    model[1].running_mean.add_(15)
    assert graver(diagnose(model)) == [("BN012", "warn")]
    report = diagnose(model, DATA)
    assert graver(report) == [("BN027", "error")]
    assert "BN012" in [finding.code for finding in report.withdrawn]


def test_initial_values_do_not_explain_a_mean_that_is_elsewhere():
    model = small(20)
    model[1].running_mean.add_(10)
    assert graver(diagnose(model, DATA)) == [("BN027", "error"), ("BN012", "warn")]


def test_initial_values_of_one_layer_do_not_explain_other_weights():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(module for _ in range(4) for module in (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()))
    )
    for row in rows(64, 100, 8):
        model(row)
    model[1].num_batches_tracked.fill_(20)
    for place in (1, 4, 7, 10):
        model[place].running_mean += 3 * model[place].running_var.sqrt()
    codes = graver(diagnose(model, DATA))
    assert ("BN008", "error") in codes


def test_momentum_zero_at_small_batches_is_the_cause_and_no_outlier():
    report = diagnose(small(200, 4, momentum=0.0, scale=0.02), rows(4, width=8))
    assert ("BN012", "error") in graver(report)
    assert not {"BN003", "BN001"} & set(report.codes)
    assert not [finding for finding in report.withdrawn if "are sound" in finding.message]


def test_a_gap_that_a_small_batch_hides_withdraws_nothing():
    model = small(0, 4)
    model[1].weight.data.uniform_(0.5, 2.0)  # trained, and its statistics never updated
    report = diagnose(model, rows(4, width=8))
    assert [finding.code for finding in report.findings if finding.severity == "error"] == ["BN001"]
    assert report.findings[0].evidence["variance_ratio"] > 100
