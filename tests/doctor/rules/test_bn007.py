import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained


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


def test_is_silent_with_the_same_keys_under_a_wrapper():
    model = trained()
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    assert diagnose(model, checkpoint=wrapped).findings == ()


def test_is_silent_where_only_counters_are_missing():
    model = trained()
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    assert diagnose(model, checkpoint=state).findings == ()
