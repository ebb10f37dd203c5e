"""A tensor as the kernels see it, and what they are launched with."""

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from batchnorm.ops import eager
from batchnorm.ops.triton.geometry import Cut, Run, cut, runs

__all__ = ["OPTIONS", "Channels", "View"]

Channels = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""mean, var, weight and bias, as `tiles.coefficients` takes them."""

OPTIONS = {"enable_fp_fusion": True}
"""For every launch. Said out loud, since Triton warns that it will change its default."""


class View:
    """An input, copied once if it is neither contiguous nor channels_last.

    Args:
        op: Named in errors.
        input: Shape ``(N, C, *spatial)``.

    Attributes:
        x: The values, dense.
        samples: N.
        channels: C.
        values_per_sample: prod(spatial).
    """

    def __init__(self, op: str, input: Tensor) -> None:
        if input.dim() < 2:
            raise RuntimeError(f"{op}: input expected shape (N, C, *spatial), got {tuple(input.shape)}")
        self.op = op
        self.format = eager.output_format(input)
        self.x = input.contiguous(memory_format=self.format)
        self.samples, self.channels = input.shape[:2]
        self.values_per_sample = input.shape[2:].numel()
        last = self.format != torch.contiguous_format
        self.rows_per_sample, self.inner = (
            (self.values_per_sample, 1) if last else (1, self.values_per_sample)
        )

    @property
    def count(self) -> int:
        """M, values per channel."""
        return self.samples * self.values_per_sample

    def like(self, other: Tensor, name: str) -> Tensor:
        """Another tensor of the input's shape, in the input's layout and dtype."""
        if other.shape != self.x.shape:
            raise RuntimeError(
                f"{self.op}: {name} expected shape {tuple(self.x.shape)}, got {tuple(other.shape)}"
            )
        return other.to(self.x.dtype).contiguous(memory_format=self.format)

    def rows(self, other: Tensor, name: str, *parts: int) -> Tensor:
        """Values of each channel, or of each part and channel, side by side."""
        wanted = (*parts, self.channels)
        if other.shape != wanted:
            raise RuntimeError(f"{self.op}: {name} expected shape {wanted}, got {tuple(other.shape)}")
        return other.contiguous()

    def of_channels(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> Channels:
        """What the kernels need to know of the channels of a whole batch."""
        return (
            self.rows(mean, "mean"),
            self.rows(var, "var"),
            None if weight is None else self.rows(weight, "weight"),
            None if bias is None else self.rows(bias, "bias"),
        )

    def empty_like(self) -> Tensor:
        """Room for a tensor of the input's shape, layout and dtype."""
        return torch.empty_like(self.x, memory_format=self.format)

    def empty_channels(self) -> Tensor:
        """Room for a value a channel in the accumulation dtype."""
        return self.x.new_empty(self.channels, dtype=eager.accumulation_dtype(self.x))

    def doubles(self, *shape: int) -> Tensor:
        """Room for partial sums."""
        return self.x.new_empty(shape, dtype=torch.float64)

    def runs(self, sizes: Sequence[int]) -> list[Run]:
        """The launches for parts of these sizes; none if there is nothing to compute."""
        if sum(sizes) != self.samples:
            raise RuntimeError(f"{self.op}: sizes expected {self.samples} samples, got {sum(sizes)}")
        return list(runs(sizes)) if self.x.numel() else []

    def cut(self, run: Run) -> Cut:
        """How each part of a run is cut."""
        return cut(run.size * self.rows_per_sample, self.channels, self.inner)

    def grid(self, run: Run) -> tuple[int]:
        """Programs of a run."""
        pieces = self.cut(run)
        return (run.parts * pieces.splits * pieces.channel_blocks,)

    def tiling(self, run: Run) -> dict[str, Any]:
        """The arguments that all kernels over tiles share."""
        pieces = self.cut(run)
        return {
            "first_row": run.first_sample * self.rows_per_sample,
            "rows": run.size * self.rows_per_sample,
            "C": self.channels,
            "S": self.inner,
            "tiles": pieces.tiles,
            "ACC": tl.float64 if self.x.dtype == torch.float64 else tl.float32,
            "BLOCK_N": pieces.block_n,
            "BLOCK_C": pieces.block_c,
            "BLOCK_S": pieces.block_s,
            "WIDE": pieces.wide,
            "num_warps": pieces.warps,
            **OPTIONS,
        }
