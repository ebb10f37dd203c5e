"""Diagnosis never changes the model: everything is bit-equal afterwards, on every path."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from batchnorm import BatchNorm2d
from batchnorm.doctor import diagnose
from batchnorm.doctor.guard import untouched
from tests.doctor.networks import batches, fresh, train


def everything(model, loader=None):
    """All that a diagnosis might disturb."""
    state = {
        name: (
            module.training,
            getattr(module, "momentum", None),
            sorted(vars(module)),
            [
                (key, id(value), None if value is None else value.detach().numpy().tobytes())
                for key, value in (*module._parameters.items(), *module._buffers.items())
            ],
            [
                (id(p), p.requires_grad, id(p.grad), None if p.grad is None else p.grad.numpy().tobytes())
                for p in module._parameters.values()
                if p is not None
            ],
            [list(vars(module)[key].items()) for key in vars(module) if key.endswith("_hooks")],
        )
        for name, module in model.named_modules()
    }
    generators = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    if isinstance(loader, torch.utils.data.DataLoader):
        generators.append(loader.generator.get_state().tolist())
    hooks = nn.modules.module._global_forward_pre_hooks
    return state, generators, list(hooks.items())


class Careless(nn.Module):
    """Draws random numbers, keeps a counter, sets its own attributes, recomputes in the backward."""

    def __init__(self):
        super().__init__()
        self.body = fresh(BatchNorm2d)
        self.drop = nn.Dropout(0.3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.last = x.mean()
        noise = random.random() + float(np.random.rand())
        return torch.utils.checkpoint.checkpoint(self.body, self.drop(x + noise), use_reentrant=False)


def careless():
    torch.manual_seed(0)
    model = Careless()
    x, y = batches()[0]
    nn.functional.cross_entropy(model(x), y).backward()  # leaves gradients behind
    return model


def loader():
    data = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*batches(), strict=True)))
    return torch.utils.data.DataLoader(
        data, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(3)
    )


def step(model, batch):
    """A step that oversteps: it changes weights, momentum and modes, and never tidies up."""
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    model.body[1].momentum = 0.9
    model.eval()


@pytest.mark.parametrize("mode", [True, False], ids=["training", "prediction"])
def test_model_and_random_state_are_bit_equal(mode):
    model, data = careless().train(mode), loader()
    model.body[4].eval()
    before = everything(model, data)
    report = diagnose(model, data, step_fn=step, predict_fn=lambda model, batch: model(batch[0]))
    assert report.batches == 20
    assert everything(model, data) == before


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("number", [0, 3, 21, 23])
def test_also_after_an_error_or_an_interrupt(error, number):
    model, data = careless(), loader()
    before = everything(model, data)
    seen = []

    def forward(model, batch):
        seen.append(None)
        output = model(batch[0])
        if len(seen) > number:
            raise error("stop")
        return output

    with contextlib.suppress(error):  # a step that cannot be made is not made
        diagnose(model, data, forward_fn=forward)
    assert len(seen) > number
    assert everything(model, data) == before


def test_a_graph_that_waits_for_its_backward_is_not_harmed():
    model = train(fresh(), batches(), epochs=1)
    x, y = batches()[0]
    loss = nn.functional.cross_entropy(model(x), y)
    diagnose(model, batches())
    loss.backward()  # raises if a saved tensor was modified


def test_a_graph_over_weights_that_are_not_finite_is_not_harmed_either():
    model = fresh()
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    loss = model(batches()[0][0]).sum()
    diagnose(model, batches())
    loss.backward()


def test_tracing_leaves_no_proxies_behind():
    model = careless()
    before = everything(model)
    diagnose(model)
    assert everything(model) == before


def test_parameters_are_restored_when_written_without_a_trace():
    model = fresh()
    before = everything(model)
    with untouched(model):
        model[0].weight.data.fill_(7.0)
        model[0].weight.requires_grad_(False)
        model.spare = nn.Linear(1, 1)
    state, *_ = everything(model)
    assert {k: v for k, v in state.items() if k != ""} == {k: v for k, v in before[0].items() if k != ""}
