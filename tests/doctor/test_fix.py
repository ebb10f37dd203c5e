"""Fixes: safe ones apply, others need consent; a copy is mended, and diagnosed again."""

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained
from tests.doctor.test_untouched import everything


def never_updated():
    model = trained()
    model[1].reset_running_stats()
    return model


def test_a_fix_that_changes_numbers_needs_consent():
    model = never_updated()
    fixed, done = diagnose(model, batches()).fix(model)
    assert [one.reason for one in done.mended] == ["changes numbers: needs consent to BN001"]
    assert done.mended[0].changes == ()
    assert [finding.code for finding in done.remaining] == ["BN001"]
    assert torch.equal(fixed[1].running_mean, model[1].running_mean)


def test_with_consent_a_copy_is_mended_and_diagnosed_again():
    model = never_updated()
    before = everything(model)
    fixed, done = diagnose(model, batches()).fix(model, consent=["bn001"])
    assert done.mended[0].done.startswith("recalibrated 1 layers from 640 samples; largest shift")
    assert done.remaining == ()
    count, mean, var = done.mended[0].changes
    assert count == "num_batches_tracked: 0 -> 20"
    low, high = float(fixed[1].running_mean.min()), float(fixed[1].running_mean.max())
    assert mean == f"running_mean: 0 -> {low:.4g} to {high:.4g}"
    assert var.startswith("running_var: 1 -> ")
    assert everything(model) == before
    assert not torch.equal(fixed[1].running_mean, model[1].running_mean)
    assert done.to_dict()["mended"][0]["finding"]["code"] == "BN001"


def test_a_safe_fix_needs_no_consent():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).bfloat16()
    fixed, done = diagnose(model).fix(model)
    assert (done.mended[0].done, done.remaining) == ("in float32 now", ())
    assert done.mended[0].changes == (
        "bias: 0 (bfloat16) -> 0",
        "running_mean: 0 (bfloat16) -> 0",
        "running_var: 1 (bfloat16) -> 1",
        "weight: 1 (bfloat16) -> 1",
    )
    assert model[0].running_mean.dtype == torch.bfloat16
    assert fixed[0].running_mean.dtype == torch.float32


def test_what_only_a_person_can_do_is_said():
    model = trained()
    report = diagnose(model, snapshot=model.state_dict())
    _, done = report.fix(model, consent=["BN010"])
    assert done.mended[0].reason == "yours to do: keep copy.deepcopy(model.state_dict())"
    assert done.remaining == report.findings


def test_without_data_nothing_is_measured():
    model = never_updated()
    _, done = diagnose(model).fix(model, consent=["BN001"])
    assert "expected training data to measure statistics on" in done.mended[0].reason


def test_an_unknown_consent_is_refused():
    model = never_updated()
    with pytest.raises(ValueError, match="fix: consent expected codes as BN001, got 'BN777'"):
        diagnose(model).fix(model, consent=["BN777"])


def test_what_was_mended_is_printed_with_its_numbers():
    model = never_updated()
    _, done = diagnose(model, batches()).fix(model, consent=["BN001"])
    first, *changed, last = str(done).splitlines()
    assert first.startswith("BN001 1: recalibrated 1 layers from 640 samples")
    assert changed == [f"  {change}" for change in done.mended[0].changes]
    assert last == "after mending: no findings"
