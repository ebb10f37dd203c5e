"""Small networks and data for the tests of the doctor."""

import copy
from functools import cache

import torch
from torch import nn

__all__ = [
    "NORMS",
    "batches",
    "by_class",
    "dense_net",
    "fresh",
    "images",
    "norms",
    "rows",
    "train",
    "trained",
]

CLASSES = 4


def images(count=640, seed=0, size=8):
    """Images in four classes, each with a mean picture of its own."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(CLASSES, 1, size, size, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % CLASSES
    order = torch.randperm(count, generator=generator)
    labels = labels[order]
    return pictures[labels] + torch.randn(count, 1, size, size, generator=generator), labels


def batches(size=32, number=20, seed=0, shift=0.0):
    """Shuffled batches, ``(images, labels)``."""
    x, y = images(size * number, seed)
    return list(zip((x + shift).split(size), y.split(size), strict=True))


def by_class(size=32, number=20, seed=0):
    """Batches of one class each."""
    x, y = images(size * number, seed)
    order = y.argsort(stable=True)
    chosen = list(zip(x[order].split(size), y[order].split(size), strict=True))
    return [chosen[i * number // CLASSES + j] for j in range(number // CLASSES) for i in range(CLASSES)]


def fresh(norm=nn.BatchNorm2d, seed=0, **options):
    """Three convolutions with batch norm, then a classifier; as built."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        norm(8, **options),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, bias=False),
        norm(12, **options),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, bias=False),
        norm(12, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


NORMS = ("1", "4", "7")


def train(model, data, epochs=3, rate=0.1):
    """SGD whose rate falls to 0, so that the weights come to rest; in place; returns the model."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate)
    for epoch in range(epochs):
        for number, (x, y) in enumerate(data):
            optimizer.param_groups[0]["lr"] = rate * (1 - (epoch + number / len(data)) / epochs)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@cache
def _trained(seed, momentum, epochs):
    return train(fresh(seed=seed, momentum=momentum), batches(seed=seed + 10), epochs)


def trained(seed=0, momentum=0.1, epochs=3):
    """A healthy network after 60 steps, in training mode; a copy."""
    return copy.deepcopy(_trained(seed, momentum, epochs))


def norms(model):
    """Its batch-norm layers."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def dense_net(width=6, **options):
    """Linear layers with BatchNorm1d; as built."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, width, bias=False), nn.BatchNorm1d(width, **options), nn.ReLU(), nn.Linear(width, 2)
    )


def rows(size=32, number=20, width=4, seed=0):
    """Batches of rows for `dense_net`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=generator) for _ in range(number)]


class Auxiliary(nn.Module):
    """With a head that never runs, whose weight only decayed."""

    def __init__(self):
        super().__init__()
        self.body, self.head = trained(), nn.BatchNorm1d(4)
        nn.init.uniform_(self.head.weight, 0.85, 0.9)

    def forward(self, x):
        return self.body(x)
