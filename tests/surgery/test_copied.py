"""Copies of modules: what a graph has made is copied without it, and the module is left as it was."""

import threading
import types

import pytest
import torch
from torch import nn

from batchnorm.surgery.copied import copied
from batchnorm.surgery.trial import Trial
from tests.surgery.networks import snapshot


def keep_in_attribute(model, made):
    model.seen = made


def keep_in_collections(model, made):
    model.seen = {"all": [(made,)]}


def keep_in_buffer(model, made):
    model.register_buffer("seen", made)


def keep_in_object(model, made):
    model.seen = types.SimpleNamespace(value=made)


def keep_in_itself(model, made):
    model.seen = [made]
    model.seen.append(model.seen)


KEPT = {
    keep_in_attribute: lambda model: model.seen,
    keep_in_collections: lambda model: model.seen["all"][0][0],
    keep_in_buffer: lambda model: model.seen,
    keep_in_object: lambda model: model.seen.value,
    keep_in_itself: lambda model: model.seen[1][0],
}


@pytest.mark.parametrize("keep", KEPT)
def test_tensors_of_a_graph_are_copied_without_it_wherever_they_are(keep):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    made = model[0](torch.ones(4, 2))
    keep(model, made)
    before = snapshot(model)
    copy = KEPT[keep](copied("fold", model))
    assert torch.equal(copy, made)
    assert copy.data_ptr() != made.data_ptr()
    assert copy.grad_fn is None
    assert snapshot(model) == before
    assert KEPT[keep](model) is made
    assert made.grad_fn is not None


def test_what_is_one_stays_one_and_modes_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).eval(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    made = model[0](torch.ones(1, 3))
    model.seen, model[1].seen, model[2].view = made, made, made[0]
    copy = copied("fold", model)
    assert copy[2].weight is copy[0].weight is not model[0].weight
    assert copy[0].weight.requires_grad
    assert copy.seen is copy[1].seen
    assert copy[2].view.data_ptr() == copy.seen.data_ptr()
    assert [module.training for module in copy.modules()] == [True, True, False, True]


def test_tensors_to_share_are_not_copied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    copy = copied("fold", model, shared=model[0].parameters())
    assert copy[0].weight is model[0].weight
    assert copy[1].weight is not model[1].weight


def test_a_module_that_cannot_be_copied_is_refused_in_one_line():
    class Sulking(nn.ReLU):
        def __deepcopy__(self, memo):
            raise NotImplementedError("not\ntoday")

    with pytest.raises(
        ValueError, match=r"^fix: model expected one that can be copied, got NotImplementedError: not today$"
    ):
        copied("fix", nn.Sequential(Sulking()))
    model = nn.ReLU()
    model.lock = threading.Lock()
    with pytest.raises(
        ValueError, match=r"^fold: model expected one that can be copied, got TypeError: .*lock"
    ):
        copied("fold", model)


def test_a_trial_leaves_what_a_model_keeps_that_has_tensors_of_a_graph():
    class Remembering(nn.Linear):
        def forward(self, x):
            self.seen.append(x)
            return super().forward(x)

    model = Remembering(2, 3)
    made = model.weight * 2
    model.seen = [made]
    assert Trial(model, torch.ones(4, 2)).difference() is None
    assert [kept is made for kept in model.seen] == [True]
