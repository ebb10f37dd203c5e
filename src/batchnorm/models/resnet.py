"""Residual networks in CIFAR style, for the textbook's small grey images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchnorm.models.norm import NormFactory, is_empty

__all__ = ["ResNet"]

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two convolutions and a shortcut: act(norm(conv(act(norm(conv(x))))) + shortcut(x)).

    The shortcut has no parameters (option A of the paper): where the block halves the image it takes
    every second pixel and fills the new channels with zeros.

    Args:
        norm: Makes what stands at ``norm1`` and ``norm2``.
        width_in: Channels of the input.
        width: Channels of the output.
        stride: 1, or 2 to halve the image.
        activation: After both normalizations.
        shortcuts: Whether there is a shortcut at all.
    """

    def __init__(
        self,
        norm: NormFactory,
        width_in: int,
        width: int,
        stride: int,
        activation: str,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.shortcuts = shortcuts
        self.conv1, self.norm1 = _conv_norm(norm, width_in, width, stride, activation)
        self.conv2, self.norm2 = _conv_norm(norm, width, width, 1, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, width_in, H, W)`` to ``(N, width, H / stride, W / stride)``, rounded up."""
        y = self.norm1(self.conv1(x))
        output: Tensor = self.norm2(self.conv2(y), residual=self._shortcut(x))
        return output

    def _shortcut(self, x: Tensor) -> Tensor | None:
        if not self.shortcuts:
            return None
        if self.stride == 1:
            return x
        new_channels = self.conv1.out_channels - self.conv1.in_channels
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, new_channels))


class ResNet(nn.Module):
    """Three stages of residual blocks, 16, 32 and 64 channels wide, for images ``(N, 1, 28, 28)``.

    Weights are drawn He-normal and biases are 0. The convolutions have a bias only where no
    normalization follows, which adds its own.

    Args:
        depth: Layers with weights, 6n + 2.
        norm: Makes what stands at ``norm1`` and at ``norm1``, ``norm2`` of every block.
        generator: Draws the weights; nothing else is drawn.
        activation: At every place.
        shortcuts: False for the plain network that the residual one is compared with.

    Raises:
        ValueError: If the depth is not 6n + 2.

    References:
        He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", arXiv:1512.03385,
        section 4.2; option A of section 4.1.
        He, Zhang, Ren & Sun 2015, "Delving deep into rectifiers", arXiv:1502.01852, equation 10.
    """

    def __init__(
        self,
        depth: int,
        norm: NormFactory,
        generator: torch.Generator,
        activation: str = "relu",
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"ResNet: depth expected 6n + 2, n >= 1, got {depth}")
        self.conv1, self.norm1 = _conv_norm(norm, 1, WIDTHS[0], 1, activation)
        self.stage1 = _stage(norm, blocks, WIDTHS[0], WIDTHS[0], activation, shortcuts)
        self.stage2 = _stage(norm, blocks, WIDTHS[0], WIDTHS[1], activation, shortcuts)
        self.stage3 = _stage(norm, blocks, WIDTHS[1], WIDTHS[2], activation, shortcuts)
        self.output = nn.Linear(WIDTHS[2], 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, 10)`` of images ``(N, 1, 28, 28)``."""
        x = self.norm1(self.conv1(images))
        x = self.stage3(self.stage2(self.stage1(x)))  # (N, 64, 7, 7)
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits


def _conv_norm(
    norm: NormFactory, width_in: int, width: int, stride: int, activation: str
) -> tuple[nn.Conv2d, nn.Module]:
    place = norm(width, 2, activation)
    conv = nn.Conv2d(width_in, width, kernel_size=3, stride=stride, padding=1, bias=is_empty(place))
    return conv, place


def _stage(
    norm: NormFactory, blocks: int, width_in: int, width: int, activation: str, shortcuts: bool
) -> nn.Sequential:
    first = Block(norm, width_in, width, width // width_in, activation, shortcuts)
    rest = (Block(norm, width, width, 1, activation, shortcuts) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
