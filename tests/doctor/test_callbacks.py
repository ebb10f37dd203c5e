"""Trainers of other packages open a watch when training begins and close it when it ends."""

import sys
import types

import pytest
import torch
from torch import nn

from batchnorm.doctor import lightning_callback, transformers_callback
from tests.doctor.networks import batches, trained
from tests.doctor.test_watch import run


def hooks(model, optimizer):
    return len(model._forward_pre_hooks), len(model._forward_hooks), len(optimizer._optimizer_step_post_hooks)


@pytest.fixture
def lightning(monkeypatch):
    """The base class that Lightning has, and a trainer with what a callback is given."""
    package = types.ModuleType("lightning.pytorch")
    package.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    return package


def trainer(*optimizers, accumulated=1):
    return types.SimpleNamespace(optimizers=optimizers, accumulate_grad_batches=accumulated)


class Task(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.net = model


@pytest.mark.parametrize("end", ["on_train_end", "on_exception"])
def test_lightning(lightning, end):
    task, found = Task(trained(momentum=0.001)), []
    optimizer = torch.optim.SGD(task.parameters(), 0.01)
    callback = lightning_callback("net", every=8, on_finding=found.append)
    assert isinstance(callback, lightning.Callback)
    callback.on_train_start(trainer(types.SimpleNamespace(optimizer=optimizer)), task)
    assert hooks(task.net, optimizer) == (1, 1, 1)
    run(task.net, batches(), 20, optimizer)
    getattr(callback, end)(None, task, *([KeyboardInterrupt()] if end == "on_exception" else []))
    assert hooks(task.net, optimizer) == (0, 0, 0)
    assert [finding.code for finding in found] == ["BN012"] * 3
    assert callback.findings == tuple(found)


def test_transformers():
    transformers = pytest.importorskip("transformers", reason="is the other package")
    model, found = trained(momentum=0.001), []
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    callback = transformers_callback(every=8, on_finding=found.append)
    assert isinstance(callback, transformers.TrainerCallback)
    arguments = types.SimpleNamespace(gradient_accumulation_steps=1)
    callback.on_train_begin(arguments, None, None, model=model, optimizer=optimizer)
    callback.on_train_begin(arguments, None, None, model=model, optimizer=optimizer)  # after an error, say
    assert hooks(model, optimizer) == (1, 1, 1)
    run(model, batches(), 20, optimizer)
    callback.on_train_end(None, None, None, model=model)
    assert hooks(model, optimizer) == (0, 0, 0)
    assert callback.findings == tuple(found) != ()


def test_what_is_not_installed_is_named(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"lightning_callback: expected lightning.pytorch to be installed"):
        lightning_callback()


def test_lightning_with_two_optimizers(lightning):
    task = Task(trained())
    optimizers = [torch.optim.SGD(part.parameters(), 0.01) for part in (task.net[9:], task.net[:9])]
    callback = lightning_callback("net", every=8)
    callback.on_train_start(trainer(*optimizers), task)
    run(task.net, batches(), 20, optimizers[1])
    callback.on_train_end(None, task)
    assert callback.findings == ()


@pytest.mark.parametrize("told", [1, 2])
def test_lightning_tells_how_many_batches_a_step_accumulates(lightning, told):
    task, found = Task(trained()), []
    optimizer = torch.optim.SGD(task.parameters(), 0.0)
    callback = lightning_callback("net", every=8, on_finding=found.append)
    callback.on_train_start(trainer(optimizer, accumulated=told), task)
    for x, _ in batches():
        task.net(x).sum().backward()
        task.net(x).sum().backward()
        optimizer.step()
    callback.on_train_end(None, task)  # or its hooks on all modules stay for the tests that follow
    assert {finding.code for finding in found} == ({"BN037"} if told == 1 else set())
