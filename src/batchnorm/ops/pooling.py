"""Average pooling on the way out: within the compiled CPU kernels, or by torch's operation after others."""

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.ops import eager
from batchnorm.ops.backend import AVERAGING_DEVICES

__all__ = ["average", "check_avg_pool", "check_windows", "is_within"]

LONGEST_BAND = 2048  # values that a kernel takes at a time; PIECE of csrc/geometry.h


def check_avg_pool(avg_pool: int) -> int:
    """Return ``avg_pool`` if it is a size of windows.

    Raises:
        ValueError: If it is not.
    """
    if type(avg_pool) is not int or avg_pool < 1:
        raise ValueError(f"batch_norm: avg_pool expected an int of at least 1, got {avg_pool!r}")
    return avg_pool


def check_windows(avg_pool: int, input: Tensor) -> None:
    """Raise unless ``input`` holds images with at least one window.

    Raises:
        ValueError: If it does not.
    """
    shape = tuple(input.shape)
    if len(shape) != 4 or min(shape[2:]) < check_avg_pool(avg_pool):
        raise ValueError(
            f"batch_norm: input expected shape (N, C, H, W) with H and W of at least avg_pool={avg_pool}, "
            f"got {shape}"
        )


def average(output: Tensor, avg_pool: int) -> Tensor:
    """Return the averages of windows side by side, ``(N, C, H // avg_pool, W // avg_pool)``."""
    return output if avg_pool == 1 else F.avg_pool2d(output, avg_pool)


def is_within(rung: str, input: Tensor, residual: Tensor | None, avg_pool: int) -> bool:
    """Whether a kernel averages in the same pass: contiguous images of whole windows, without a residual."""
    if rung != "native" or input.device.type not in AVERAGING_DEVICES or residual is not None:
        return False
    height, width = input.shape[2:]
    whole = height % avg_pool == 0 and width % avg_pool == 0 and width * avg_pool <= LONGEST_BAND
    return whole and eager.output_format(input) == torch.contiguous_format
