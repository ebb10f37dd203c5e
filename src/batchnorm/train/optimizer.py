"""Optimizers and learning-rate schedules; both are functions of the config alone."""

import math

import torch
from torch import nn

from batchnorm.train.config import TrainConfig

__all__ = ["learning_rate", "make_optimizer", "optimizer_tensors", "restore_optimizer"]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or Adam over two groups: weights, which decay, and the rest, which does not.

    Decaying gamma shrinks what batch normalization learned for no gain, and beta and biases are
    kept out by the same custom: what has one dimension does not decay.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of one step.

    Args:
        config: Gives the schedule and the first rate.
        step: Counted from 0 over the whole training.
        steps: How many there are.
    """
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    if config.schedule == "step":
        drops = (step >= steps / 2) + (step >= steps * 3 / 4)
        return float(config.lr * 0.1**drops)
    return config.lr


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors, ``<parameter number>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Inverse of `optimizer_tensors` on an optimizer made from the same config."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
