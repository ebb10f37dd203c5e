"""The explanation names the layer where it begins, not those that only see its fault."""

import re

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import NORMS, batches, by_class, fresh, train, trained
from tests.doctor.test_small_causes import computed_twice


@pytest.mark.parametrize("layer", NORMS)
def test_the_layer_at_fault_is_named_whichever_it_is(layer):
    model = trained()
    norm = model.get_submodule(layer)
    norm.running_mean += 0.8 * norm.running_var.sqrt()
    report = diagnose(model, batches())
    lines = report.explanation.splitlines()
    assert f"It begins in layer {layer}:" in lines[0]
    assert "1 of 3 layers are off" in lines[1]
    assert int(re.search(r"(\d+)% of the layers' gaps", lines[2])[1]) >= 95
    ranking = [line.split(":")[0].strip() for line in lines[6:]]
    assert ranking[0] == layer


def test_of_two_faults_the_first_in_the_forward_is_named():
    model = trained()
    for name in ("7", "4"):
        norm = model.get_submodule(name)
        norm.running_mean += 0.8 * norm.running_var.sqrt()
    report = diagnose(model, batches())
    assert "It begins in layer 4:" in report.explanation
    share = int(report.explanation.split("alone, ")[1].split("%")[0])
    assert 10 < share < 90


def test_the_cause_and_its_cure_are_said():
    model = trained()
    model[1].reset_running_stats()
    explanation = diagnose(model, batches()).explanation
    assert "its statistics were never updated" in explanation
    assert "What to do: batchnorm.recalibrate(model, loader)" in explanation
    assert "(BN001)" in explanation


def test_a_cause_that_leaves_the_statistics_alone_is_said_too():
    report = diagnose(train(fresh(), by_class(), 3), by_class())
    assert "(BN026)" in report.explanation


def test_a_healthy_network_needs_no_explanation():
    assert diagnose(trained(), batches()).explanation == ""
    assert diagnose(trained()).explanation == ""


class Written(nn.Module):
    """Batch norm as people write it: no class of torch."""

    def __init__(self, channels):
        super().__init__()
        self.eps, self.momentum = 1e-5, 0.1
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        statistics = self.running_mean, self.running_var
        return nn.functional.batch_norm(x, *statistics, None, None, self.training, self.momentum, self.eps)


def test_a_layer_that_is_no_class_of_torch_is_explained_too():
    model = train(fresh(Written), batches())
    model[4].running_mean += 0.8 * model[4].running_var.sqrt()
    explanation = diagnose(model, batches()).explanation
    assert "It begins in layer 4:" in explanation
    assert int(re.search(r"(\d+)% of the layers' gaps", explanation)[1]) >= 95


def test_a_cause_too_small_for_the_gap_is_not_named():
    model, data, _ = computed_twice()
    report = diagnose(model, data)
    assert "BN037" in report.codes
    assert "It begins in layer body.4: no cause was found" in report.explanation
