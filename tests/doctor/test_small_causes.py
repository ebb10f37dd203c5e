"""A cause that is there, but small, takes back no large gap beside it; a cause of that size does."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained
from tests.doctor.rules.test_bn005 import after_3000_batches
from tests.doctor.rules.test_bn037 import Checkpointed

FAR = 10  # standard deviations


def moved(layer, by=FAR):
    """A running mean that is elsewhere."""
    layer.running_mean += by * layer.running_var.sqrt()


def averaged():
    model = AveragedModel(trained())
    moved(model.module[4])
    return model, batches(), {}


def in_bfloat16(by=FAR, momentum=0.1):
    """With a variance that stands still at 1.008, where that of the data is 1.44."""
    model = after_3000_batches(torch.bfloat16)
    model[0].momentum = momentum  # the larger, the nearer the statistics come
    moved(model[0], by)
    return model, [(row * 1.2 + 0.3).bfloat16() for row in rows(512)], {}


def pasted_momentum():
    model = dense_net(8, momentum=0.99)
    for row in rows(16, 40, seed=5):
        model(row)
    moved(model[1])
    return model, rows(16), {}


def other_eps():
    model = trained()
    for place in (1, 4, 7):
        model[place].eps = 3e-2
    moved(model[4])
    return model, batches(), {"source_eps": 1e-5}


def alike():
    """Batches that differ a little more than shuffled ones."""
    generator = torch.Generator().manual_seed(0)
    data = [row + 0.4 * torch.randn(1, 4, generator=generator) for row in rows(32, 60)]
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    for row in data:
        model(row)
    moved(model[0])
    return model, data[-20:], {}


def computed_twice():
    model = Checkpointed(False)
    moved(model.body[4])
    return model, batches(), {}


def two_kinds(by=FAR, apart=1):
    """Half of the forwards are so many standard deviations elsewhere."""

    def step(model, x):
        (model(x).sum() + model(x + apart).sum()).backward()

    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    for row in rows(number=60, seed=3):
        model(row)
        model(row + apart)
    moved(model[0], by)
    return model, rows(), {"step_fn": step, "accumulation": 2}


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("BN005", in_bfloat16),
        ("BN009", averaged),
        ("BN011", pasted_momentum),
        ("BN013", other_eps),
        ("BN026", alike),
        ("BN037", computed_twice),
        ("BN038", two_kinds),
    ],
)
def test_a_small_cause_takes_back_no_large_gap(code, make):
    model, data, settings = make()
    report = diagnose(model, data, **settings)
    assert code in report.codes
    assert [f.severity for f in report.findings if f.code == "BN027"] == ["error"]


def averaged_far():
    """Weights before the last layer moved away from those that the statistics belong to."""
    live = trained()
    model = AveragedModel(live)
    noise = torch.randn(model.module[6].weight.shape, generator=torch.Generator().manual_seed(0))
    model.module[6].weight.data += 0.3 * noise
    return model, batches(), {"averaged_from": live}


def wild_last_batch():
    data = rows(16, 20)
    data[-1] = data[-1] + 5
    return passed(nn.BatchNorm1d(4, momentum=0.99), data), data, {}


def kind_last():
    """Training ended with batches of one kind."""
    data = rows(16, 20)
    data[-2:] = [row + 5 for row in data[-2:]]
    return passed(nn.BatchNorm1d(4), data + data[-2:] * 20), data, {}


def passed(norm, data):
    model = nn.Sequential(norm, nn.Linear(4, 2))
    for row in data:
        model(row)
    return model


def eps_of_the_source_far_away():
    """Rebuilt with an eps above the variances, so that the second layer is given less than before."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.BatchNorm1d(4, eps=1e-5), nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, eps=1e-5), nn.Tanh())
    )
    model[1].weight.data *= 0.05
    data = [0.01 * row for row in rows(64)]
    for row in data * 5:
        model(row)
    model[0].eps = model[2].eps = 5e-4
    return model, data, {"source_eps": 1e-5}


def two_kinds_far():
    return two_kinds(0, apart=8)


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("BN005", lambda: in_bfloat16(0, 0.01)),
        ("BN009", averaged_far),
        ("BN011", wild_last_batch),
        ("BN013", eps_of_the_source_far_away),
        ("BN026", kind_last),
        ("BN038", two_kinds_far),
    ],
)
def test_a_cause_of_that_size_does(code, make):
    model, data, settings = make()
    report = diagnose(model, data, **settings)
    assert code in report.codes
    assert "BN027" not in report.codes
    assert [f.message.rsplit(" ")[-1] for f in report.withdrawn if f.code == "BN027"] == [f"{code}."]


def graver(report):
    return [(f.code, f.layer) for f in report.findings if f.severity != "info"]


def test_an_update_too_many_explains_no_edited_weights():
    model = Checkpointed(False)
    generator = torch.Generator().manual_seed(0)
    for place in (0, 3, 6):
        weight = model.body[place].weight.data
        weight += 0.3 * torch.randn(weight.shape, generator=generator)
    found = graver(diagnose(model, batches()))
    assert found == [("BN008", None), *(("BN037", f"body.{place}") for place in (1, 4, 7))]


def test_one_layer_that_was_never_updated_explains_no_other():
    model = trained()
    model[1].reset_running_stats()
    moved(model[4], 3)
    assert graver(diagnose(model, batches())) == [("BN001", "1"), ("BN027", "4")]
    moved(model[7], 3)
    assert graver(diagnose(model, batches())) == [("BN001", "1"), ("BN008", None)]


def test_what_the_step_does_not_call_is_not_explained_by_it():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
    for row in rows(number=60):
        model(row)
    moved(model[2])

    def step(model, x):
        (model[0](x).sum() + model[0](x + 3).sum()).backward()

    report = diagnose(model, rows(), step_fn=step, accumulation=2)
    assert graver(report) == [("BN027", "2")]
