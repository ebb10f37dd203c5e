"""Trained-looking networks, and the question whether folding left one the same."""

import copy

import torch
from torch import nn

from batchnorm.surgery import fold
from batchnorm.surgery.constants import is_norm
from batchnorm.surgery.equivalence import largest_difference, outputs_of

__all__ = ["Network", "assert_folds", "settled"]


def settled(model, seed=0, dtype=torch.float64):
    """The model in prediction mode, its batch norms with statistics and parameters as after a training."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(like):
        return torch.rand(like.shape, generator=generator).to(like.dtype)

    model = model.to(dtype).eval()
    with torch.no_grad():
        for module in model.modules():
            if is_norm(module) and module.running_mean is not None:
                module.running_mean.copy_(numbers(module.running_mean) * 4 - 2)
                module.running_var.copy_(numbers(module.running_var) * 2 + 0.1)
            for name in ("weight", "bias") if is_norm(module) else ():
                if getattr(module, name) is not None:
                    getattr(module, name).copy_(numbers(getattr(module, name)) * 2 - 0.7)
    return model


def assert_folds(model, *inputs, example=None, within=1e-12):
    """Fold; every input must give what it gave, and the original must not have changed. Returns both."""
    expected = [outputs_of(model, input) for input in inputs]
    state = copy.deepcopy(model.state_dict())
    folded, report = fold(model, example)
    for input, before in zip(inputs, expected, strict=True):
        for a, b in zip(before, outputs_of(folded, input), strict=True):
            assert largest_difference(a, b) <= within
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], state[key]) for key in state)
    return folded, report


class Network(nn.Module):
    """Modules by name, and what is done with them: ``run(network, x)``."""

    def __init__(self, run, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = run

    def forward(self, x):
        return self.run(self, x)
