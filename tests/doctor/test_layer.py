"""All kinds of layers are read in one place: ours with their kinds of statistics, and other people's."""

import warnings

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d, BatchNorm2d, stats
from batchnorm.doctor import diagnose
from batchnorm.doctor.layers import layers_of_checkpoint, layers_of_model
from tests.doctor.networks import batches, fresh, norms, rows, train, trained


def layer(module):
    (found,) = layers_of_model(module)
    return found


def test_torchs_and_our_layers_are_known():
    assert layer(nn.BatchNorm2d(3)).kind == "batch"
    assert layer(BatchNorm2d(3, activation="relu")).kind == "batch"
    assert layer(nn.SyncBatchNorm(3)).kind == "sync"
    assert layer(BatchNorm1d(3, stats=stats.Synced() + stats.Renorm())).kind == "sync"


def test_a_frozen_kind_does_not_learn_in_training_mode():
    found = layer(BatchNorm1d(3, stats=stats.Frozen()))
    assert not found.training
    assert not found.normalizes_batches


def test_statistics_of_domains_are_looked_at_all():
    norm = BatchNorm1d(3, stats=stats.Domains(4))
    norm.running_var[2, 1] = -1.0
    found = layer(norm)
    assert (found.var.shape, found.weight.shape, found.count) == ((12,), (12,), 0)
    report = diagnose(nn.Sequential(norm, nn.ReLU()))
    assert [f.code for f in report.findings] == ["BN002"]
    assert report.findings[0].evidence == {"running_var": 1.0}


@pytest.mark.parametrize(
    "kind",
    [stats.Batch(), stats.Ghost(8), stats.Renorm()],
    ids=repr,
)
def test_every_kind_in_good_health_has_no_findings(kind):
    data = batches(64, 10)
    model = train(fresh(BatchNorm2d, stats=kind), data, 5)
    assert [f.code for f in diagnose(model, data).findings if f.severity != "info"] == []


def test_channels_on_the_last_axis_are_measured_there():
    model = nn.Sequential(BatchNorm1d(4, channel_dim=-1), nn.Linear(4, 2))
    data = [row.unsqueeze(1).expand(-1, 6, -1) + torch.arange(4.0) for row in rows(64)]
    for x in data * 3:
        model(x)
    assert diagnose(model, data, rules=["BN027", "BN003", "BN029"]).findings == ()
    model[0].running_mean += 2.0
    assert diagnose(model, data, rules=["BN027"]).codes == ("BN027",)


def test_a_layer_is_found_in_its_checkpoint():
    model = trained()
    (first, *_) = layers_of_checkpoint(model.state_dict())
    assert (first.name, first.kind, first.count) == ("1", "checkpoint", 60)
    assert torch.equal(first.mean, norms(model)[0].running_mean)


def test_a_network_with_lazy_layers_is_not_run():
    model = nn.Sequential(nn.LazyLinear(3), nn.BatchNorm1d(3))
    assert diagnose(model).layers_seen == 1
    with pytest.raises(
        ValueError, match=r"diagnose: model expected initialized parameters, .* lazy 0.weight"
    ):
        diagnose(model, rows())


def test_tensors_without_values_are_refused_in_one_line():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    for target in (model, model.state_dict()):
        with pytest.raises(ValueError, match=r"^diagnose: model expected tensors with values, got 0.weight "):
            diagnose(target)


@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_a_part_in_torchscript_is_looked_past(kind):
    made = {
        "script": lambda part: torch.jit.script(part),
        "trace": lambda part: torch.jit.trace(part, torch.randn(2, 4)),
        "freeze": lambda part: torch.jit.freeze(torch.jit.script(part.eval())),
    }
    with warnings.catch_warnings(action="ignore"):
        part = made[kind](nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)))
        model = nn.Sequential(part, nn.BatchNorm1d(3), nn.Linear(3, 2))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        report = diagnose(model, rows())
    assert (report.layers_seen, report.codes) == (1, ())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
