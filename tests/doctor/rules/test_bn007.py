import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained


def test_fires_on_a_file_of_parameters_alone(whole):
    source = trained()
    model = trained(seed=1)
    parameters = dict(source.named_parameters())
    model.load_state_dict(parameters, strict=False)
    report = diagnose(model, checkpoint=parameters)
    assert report.codes == ("BN007",)
    assert [finding.layer for finding in report.findings] == ["1", "4", "7"]
    assert "parameters alone" in report.findings[0].fix.text
    whole(report)


def test_fires_on_a_folded_file(whole):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU())
    report = diagnose(model, checkpoint={"0.weight": model[0].weight, "0.bias": torch.zeros(2)})
    assert "folded" in report.findings[0].fix.text
    whole(report)


def under_another_name(inside=True):
    """A network, and a file in which its names have a prefix more or less; nothing was loaded."""
    model, source = trained(seed=1), trained().state_dict()
    if inside:
        return model, {f"backbone.{key}": value for key, value in source.items()}
    return nn.Sequential(model), source


@pytest.mark.parametrize("inside", [True, False])
def test_fires_on_other_names_and_loads_them(inside, whole):
    model, file = under_another_name(inside)
    report = diagnose(model, checkpoint=file)
    assert report.codes == ("BN007",)
    whole(report)
    fixed, done = report.fix(model)
    assert done.remaining == ()
    assert torch.equal(fixed(batches()[0][0]), trained()(batches()[0][0]))
    assert done.mended[0].changes[0].startswith("bias in 3 layers: ")


def test_fires_on_names_that_fit_twice_and_loads_none():
    model, file = under_another_name()
    file |= {f"teacher.{key}": value for key, value in trained(seed=2).state_dict().items()}
    report = diagnose(model, checkpoint=file)
    assert {finding.fix.kind for finding in report.findings} == {"advice"}


def test_is_silent_on_other_names_that_the_loader_knew():
    model, file = under_another_name()
    model.load_state_dict({key.removeprefix("backbone."): value for key, value in file.items()})
    assert diagnose(model, checkpoint=file).findings == ()


def test_is_silent_on_a_head_made_anew():
    model = nn.ModuleDict({"body": trained(), "head": nn.BatchNorm1d(4)})
    file = {f"body.{key}": value for key, value in model["body"].state_dict().items()}
    assert [finding.layer for finding in diagnose(model, checkpoint=file).findings] == ["head"]
    assert diagnose(model, checkpoint=file, made_anew=["head"]).findings == ()


def test_is_silent_on_layers_that_keep_no_statistics():
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1))
    assert "BN007" not in diagnose(model, checkpoint=dict(model.named_parameters())).codes


def test_is_silent_with_the_same_keys_under_a_wrapper():
    model = trained()
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    assert diagnose(model, checkpoint=wrapped).findings == ()


def test_is_silent_where_only_counters_are_missing():
    model = trained()
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    assert diagnose(model, checkpoint=state).findings == ()
