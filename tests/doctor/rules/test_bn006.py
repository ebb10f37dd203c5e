import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import NORMS, batches, rows, trained
from tests.doctor.rules.mending import mend


def averaging(count=0):
    """Cumulative statistics from 1000 batches with mean 5, the counter lost."""
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 1))
    with torch.no_grad():
        for row in rows(number=1000):
            model(row + 5)
    model[0].num_batches_tracked.fill_(count)
    return model


def test_fires_as_an_error_with_cumulative_statistics(whole):
    report = diagnose(averaging())
    assert (report.codes, report.severity) == (("BN006",), "error")
    whole(report)


def test_fires_as_information_where_nothing_reads_it(whole):
    model = trained()
    model[1].num_batches_tracked.zero_()
    report = diagnose(model)
    assert [(f.code, f.severity, f.layer) for f in report.findings] == [("BN006", "info", "1")]
    whole(report)


def test_fires_on_a_missing_and_on_a_fractional_counter(whole):
    state = trained().state_dict()
    del state["1.num_batches_tracked"]
    state["4.num_batches_tracked"] = torch.tensor(60.0)
    whole(diagnose(state))


def test_fires_on_a_counter_left_out_of_the_average(whole):
    model = trained()
    for name in NORMS:
        model.get_submodule(name).num_batches_tracked.fill_(1)
    whole(diagnose(model, averaged_from=trained(), rules=["BN006"]))


@pytest.mark.parametrize("model", [lambda: averaging(1000), trained, lambda: nn.BatchNorm1d(3)])
def test_is_silent_on_a_counter_that_fits(model):
    assert "BN006" not in diagnose(model()).codes


def test_mending_counts_again():
    model = averaging()
    data = [row + 5 for row in rows()]
    mend(model, diagnose(model), "BN006", data)
    assert model[0].num_batches_tracked.item() == 20
    model = trained()
    model[1].num_batches_tracked = torch.tensor(60.0)
    mend(model, diagnose(model, batches()), "BN006")
    assert model[1].num_batches_tracked.dtype == torch.int64
