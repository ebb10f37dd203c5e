import copy

import pytest
import torch

from batchnorm.models import build
from batchnorm.train import TrainConfig
from batchnorm.train.optimizer import learning_rate, make_optimizer, optimizer_tensors, restore_optimizer


def test_batch_norm_and_biases_do_not_decay():
    model = build("lenet", norm="batch", seed=0)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.1))
    decay, rest = optimizer.param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    decaying = {names[id(p)] for p in decay["params"]}
    assert decaying == {name for name, p in model.named_parameters() if p.dim() > 1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [2.0, 2.0, 2.0, 2.0]),
        ("cosine", [2.0, 1.0 + 2**-0.5, 1.0, 1.0 - 2**-0.5]),
        ("step", [2.0, 2.0, 0.2, 0.02]),
    ],
)
def test_schedules(schedule, expected):
    config = TrainConfig(schedule=schedule, lr=2.0)
    assert [learning_rate(config, step, 4) for step in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{"momentum": 0.9, "lr": 0.1}, {"optimizer": "adam", "lr": 0.01}])
def test_a_restored_optimizer_takes_the_same_next_step(settings):
    config = TrainConfig(**settings)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(model, config)
    x = torch.randn(5, 3)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    step(model, optimizer)
    twin = copy.deepcopy(model)
    other = make_optimizer(twin, config)
    restore_optimizer(other, {k: v.clone() for k, v in optimizer_tensors(optimizer).items()})
    step(model, optimizer)
    step(twin, other)
    assert torch.equal(twin.weight, model.weight)
    assert torch.equal(twin.bias, model.bias)
