"""The textbook's LeNet, with a place of normalization before each activation.

The average pooling that follows the first two activations is part of their places: so a layer of ours does
it in the same pass.
"""

import math

import torch
from torch import Tensor, nn

from batchnorm.models.norm import NormFactory

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """Two convolutions and three dense layers for images ``(N, 1, 28, 28)``.

    Weights are drawn Xavier-uniform, biases as torch draws them by default. Every version has the
    biases before its normalization, as in the textbook, though only ``none`` needs them.

    Args:
        norm: Makes what stands at ``norm1`` to ``norm4``.
        generator: Draws weights and biases; nothing else is drawn.
        activation: At the four places; see `batchnorm.BatchNorm2d`.

    References:
        LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
        recognition", section II.B, in the simplified form of Zhang, Lipton, Li & Smola, "Dive into
        Deep Learning", arXiv:2106.11342, sections 7.6 and 8.5.
        Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural
        networks", equation 16.
    """

    def __init__(self, norm: NormFactory, generator: torch.Generator, activation: str = "sigmoid") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
        self.norm1 = norm(6, 2, activation, avg_pool=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.norm2 = norm(16, 2, activation, avg_pool=2)
        self.dense1 = nn.Linear(256, 120)
        self.norm3 = norm(120, 0, activation)
        self.dense2 = nn.Linear(120, 84)
        self.norm4 = norm(84, 0, activation)
        self.output = nn.Linear(84, 10)
        for layer in (self.conv1, self.conv2, self.dense1, self.dense2, self.output):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            bound = 1 / math.sqrt(layer.weight[0].numel())  # over the fan-in
            assert layer.bias is not None
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        x = self.norm1(self.conv1(images))  # (N, 6, 12, 12)
        x = self.norm2(self.conv2(x))  # (N, 16, 4, 4)
        x = self.norm3(self.dense1(x.flatten(1)))
        x = self.norm4(self.dense2(x))
        logits: Tensor = self.output(x)
        return logits
