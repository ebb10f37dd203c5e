"""Whatever is told wrongly is refused in one line."""

import math
import re

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import dense_net, rows, trained


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"optimizer": "adam"}, "optimizer expected a torch.optim.Optimizer, got str"),
        ({"optimizer": []}, "optimizer expected a torch.optim.Optimizer, got list"),
        ({"steps": 0}, "steps expected 1 or more, got 0"),
        ({"steps": "100"}, "steps expected 1 or more, got '100'"),
        ({"accumulation": None}, "accumulation expected 1 or more, got None"),
        ({"source_eps": -1.0}, "source_eps expected a finite number, 0 or more, got -1.0"),
        ({"source_eps": math.nan}, "source_eps expected a finite number, 0 or more, got nan"),
        ({"source_eps": {"1": "small"}}, "source_eps expected a finite number, 0 or more, got 'small'"),
        ({"loader": 3}, "loader expected an iterable of batches, got int"),
    ],
)
def test_is_refused(told, words):
    with pytest.raises(ValueError, match=f"^diagnose: {re.escape(words)}$"):
        diagnose(dense_net(), **told)


def test_several_optimizers_are_one():
    model = trained()
    parts = [torch.optim.SGD(part.parameters(), 0.1, weight_decay=0.1) for part in (model[:3], model[3:])]
    assert diagnose(model, optimizer=parts, rules=["BN019"]).findings == ()
    assert diagnose(model, optimizer=parts[:1], rules=["BN019"]).codes == ("BN019",)
    assert [f.code for f in diagnose(model, optimizer=parts, rules=["BN018"]).findings] == ["BN018"] * 2


def test_of_several_optimizers_one_step_is_enough():
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1), nn.Linear(1, 1))
    parts = [torch.optim.Adam(part.parameters()) for part in model[1:]]
    assert diagnose(model, optimizer=parts, rules=["BN001"]).codes == ()
    model[2](torch.ones(2, 1)).sum().backward()
    parts[1].step()
    assert diagnose(model, optimizer=parts, rules=["BN001"]).codes == ("BN001",)
    assert not parts[0].state


def test_a_step_is_counted_in_numbers_of_any_kind():
    assert diagnose(dense_net(), steps=1e4, source_eps={"1": 1e-5}).findings == ()
    assert diagnose(nn.BatchNorm1d(4), rows(), steps=torch.tensor(100).numpy()[()]).findings == ()
