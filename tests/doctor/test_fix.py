"""Fixes: safe ones apply, others need consent; a copy is mended, and diagnosed again."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from batchnorm.doctor import diagnose
from batchnorm.surgery import recalibrate
from tests.doctor.networks import Auxiliary, batches, dense_net, trained
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


def test_a_model_that_keeps_tensors_of_a_graph_is_mended():
    model = never_updated()
    model.seen = model[0](batches()[0][0])
    fixed, done = diagnose(model, batches()).fix(model, consent=["BN001"])
    assert done.remaining == ()
    assert torch.equal(fixed.seen, model.seen)
    assert model.seen.requires_grad


def test_with_consent_a_copy_is_mended_and_diagnosed_again():
    model = never_updated()
    before = everything(model)
    fixed, done = diagnose(model, batches()).fix(model, consent=["bn001"])
    said = r"recalibrated 3 layers from 640 samples; largest shift \S+ standard deviations in layer [147]"
    assert re.fullmatch(said, done.mended[0].done)
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


def test_an_eps_that_nobody_declared_is_a_persons_to_set():
    model = nn.Sequential(nn.BatchNorm1d(2, eps=1e-12), nn.Linear(2, 1))
    _, done = diagnose(model, rules=["BN013"]).fix(model, consent=["BN013"])
    assert done.mended[0].reason == "yours to do: eps 1e-5"


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
    assert first.startswith("BN001 1: recalibrated 3 layers from 640 samples")
    assert changed == [f"  {change}" for change in done.mended[0].changes]
    assert last == "after mending: no findings"


def chain(depth=6):
    torch.manual_seed(0)
    layers = [
        part
        for first in [1] + [8] * (depth - 1)
        for part in (nn.Conv2d(first, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    ]
    model = nn.Sequential(*layers)
    recalibrate(model, batches())
    return model.train()


def test_statistics_are_measured_of_all_layers_together():
    """The later layer has the graver finding; measured first, it would see what the earlier one spoils."""
    model = chain()
    model[4].running_var *= 5
    model[10].running_var *= 20
    report = diagnose(model, batches())
    assert [(finding.code, finding.layer) for finding in report.findings] == [("BN003", "10"), ("BN027", "4")]
    fixed, done = report.fix(model, consent=report.codes)
    assert done.remaining == ()
    recalibrate(model, batches())
    assert torch.equal(fixed[10].running_var, model[10].running_var)


def test_each_finding_has_the_numbers_of_its_layer():
    model = chain()
    model[4].running_mean.fill_(7)
    model[10].running_mean.fill_(9)
    report = diagnose(model, batches(), rules=["BN027"])
    _, done = report.fix(model, consent=["BN027"])
    before = {
        one.finding.layer: next(change for change in one.changes if change.startswith("running_mean"))
        for one in done.mended
    }
    assert before["4"].startswith("running_mean: 7 -> ")
    assert before["10"].startswith("running_mean: 9 -> ")


def test_what_cannot_be_measured_leaves_the_rest_mended():
    model = trained(momentum=0.99)
    report = diagnose(model)
    _, done = report.fix(model, [torch.full((32, 1, 8, 8), torch.nan)], consent=["BN011"])
    assert all(one.done.startswith("momentum 0.99 is now 0.01; not recalibrated: ") for one in done.mended)


def test_no_more_batches_are_read_than_by_the_diagnosis():
    class Endless(IterableDataset):
        given = 0

        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            while True:
                self.given += 1
                assert self.given < 10_000
                yield torch.randn(4, generator=generator)

    model = dense_net()
    nn.init.uniform_(model[1].weight, 1.05, 1.15)
    loader = DataLoader(Endless(), 32)
    _, done = diagnose(model, loader).fix(model, consent=["BN001"])
    assert done.mended[0].done.startswith("recalibrated 1 layers from 640 samples")
    _, done = diagnose(model).fix(model, loader, consent=["BN001"])
    assert done.mended[0].done.startswith("recalibrated 1 layers from 640 samples")


def test_a_layer_that_the_data_do_not_reach_is_left_alone():
    model = Auxiliary()
    model.body[1].reset_running_stats()
    _, done = diagnose(model).fix(model, batches(), consent=["BN001"])
    said = {one.finding.layer: (one.done[:21], one.reason) for one in done.mended}
    assert said == {"body.1": ("recalibrated 3 layers", ""), "head": ("", "not reached by the data")}


def test_an_iterator_is_read_for_the_fix_and_for_the_second_diagnosis():
    _, done = diagnose(never_updated(), batches()).fix(never_updated(), iter(batches()), consent=["BN001"])
    assert done.mended[0].done.startswith("recalibrated 3 layers")
    assert done.remaining == ()


def test_what_needs_no_data_is_mended_beside_what_does():
    model = never_updated()
    model[4].eps = 1e-3
    _, done = diagnose(model, batches()).fix(model, consent=["BN001", "BN013"])
    assert [(one.finding.code, one.done[:12]) for one in done.mended] == [
        ("BN001", "recalibrated"),
        ("BN013", "eps 0.001 is"),
    ]


def test_a_suspicion_without_data_is_settled_by_those_of_the_fix():
    model = trained(momentum=0.02)
    report = diagnose(model)
    assert {finding.state for finding in report.findings} == {"suspected"}
    _, done = report.fix(model, batches(), consent=["BN012"])
    assert done.remaining == ()
