"""A model that raises on the data: the loader is blamed only where no error stands without data."""

import math

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import rows


class Distribution(nn.Module):
    """Refuses numbers that are not finite, as torch's distributions do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        y = self.last(torch.relu(self.norm(self.first(x))))
        scale = nn.functional.softplus(y[:, 1])
        # torch.compile switches the check off for the whole process
        return torch.distributions.Normal(y[:, 0], scale, validate_args=True).rsample()


def trained():
    model = Distribution()
    for row in rows(number=60):
        model(row)
    return model


def test_an_error_that_needs_no_data_is_said_and_what_was_not_checked(rules_may_fail):
    model = trained()
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    report = diagnose(model, rows())
    assert [(f.code, f.severity) for f in report.findings] == [("BN002", "error")]
    assert report.skipped["BN027"].startswith("the model raised ValueError: Expected parameter loc")
    assert max(map(len, report.skipped.values())) < 200
    assert report.batches == 0


def test_a_model_that_raises_in_prediction_only_is_measured_in_training(rules_may_fail):
    model = trained()
    model.norm.running_var[0] = math.nan
    model.norm.running_mean[1:] += 100
    report = diagnose(model, rows())
    assert [(f.code, f.severity) for f in report.findings] == [("BN002", "error")]
    assert report.batches == 20
    assert [layer.layer for layer in report.layers] == ["norm"]
    assert "It begins in layer norm" in report.explanation


def test_a_sound_model_that_raises_is_misuse(rules_may_fail):
    with pytest.raises(ValueError, match="loader expected batches that the model takes, got RuntimeError"):
        diagnose(trained(), rows(width=5))


def test_a_suspicion_does_not_excuse_a_loader(rules_may_fail):
    model = trained()
    model.norm.reset_running_stats()
    nn.init.uniform_(model.norm.weight, 0.5, 2.0)
    assert diagnose(model).severity == "error"
    with pytest.raises(ValueError, match="loader expected batches that the model takes"):
        diagnose(model, rows(width=5))


def test_an_empty_loader_is_misuse_whatever_was_found():
    model = trained()
    model.norm.running_var[0] = math.nan
    with pytest.raises(ValueError, match="loader expected one batch or more, got none"):
        diagnose(model, [])
