import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, rows, trained


def step(shift):
    def run(model, batch):
        x, y = batch
        loss = nn.functional.cross_entropy(model(x), y) + model(x.flip(0) + shift).square().mean()
        loss.backward()

    return run


def test_fires_on_two_kinds_of_input(whole):
    model = trained()
    report = diagnose(model, batches(), step_fn=step(3.0), accumulation=2)
    assert (report.codes, report.severity) == (("BN038",), "info")
    whole(report)


def test_fires_as_a_warning_where_the_statistics_mix_labelled_and_augmented(whole):
    def both(model, x):
        (model(x).sum() + model(x + 3).sum()).backward()

    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    with torch.no_grad():
        for row in rows():
            model(row)
            model(row + 3)
    report = diagnose(model, rows(), step_fn=both, accumulation=2)
    assert (report.codes, report.severity) == (("BN038",), "warn")
    whole(report)


def test_fires_beside_the_extra_update():
    assert set(diagnose(trained(), batches(), step_fn=step(6.0)).codes) == {"BN037", "BN038"}


def test_is_silent_on_halves_of_one_batch():
    def halves(model, batch):
        for x in batch[0].chunk(2):
            model(x).sum().backward()

    assert diagnose(trained(), batches(), step_fn=halves, accumulation=2).findings == ()
