"""Hypothesis strategies for batch-norm inputs: shapes, memory layouts, dtypes, values, options.

A `Case` is a handful of small numbers, so that a failing one is printed whole and shrinks fast; its
tensors are built from its seed. Strategies draw cases; a test that needs one input only may also
write a `Case` down.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from batchnorm.reference import ACTIVATIONS

__all__ = ["DTYPES", "LAYOUTS", "Case", "Tensors", "cases", "lay_out", "shapes"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HALF = (torch.bfloat16, torch.float16)

# the ends and the neighbours of vector lengths 4, 8, 16 and 32, and primes
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33)

LAYOUTS = (
    "contiguous",
    "channels_last",
    "transposed",
    "every_second",
    "channel_slice",
    "channels_last_slice",
)


def lay_out(values: Tensor, layout: str) -> Tensor:
    """Copy ``values`` into another memory layout; whatever lies between a slice's elements is NaN.

    Args:
        values: Shape ``(N, C, *spatial)``.
        layout: ``contiguous``; ``channels_last``, C innermost, for any rank; ``transposed``, N innermost;
            ``every_second``, elements of the last dimension apart and off alignment; ``channel_slice``
            and ``channels_last_slice``, C channels out of C + 2; ``expanded``, stride 0 everywhere:
            all elements become the first one.
    """
    if layout == "contiguous":
        return values.clone(memory_format=torch.contiguous_format)
    if layout == "channels_last":
        return values.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
    if layout == "transposed":
        return values.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)
    if layout == "expanded":
        return values.flatten()[0].clone().expand(values.shape)
    if layout == "every_second":
        room = values.new_full((*values.shape[:-1], 2 * values.shape[-1] + 1), torch.nan)
        window = room[..., 1::2]
    else:
        channels = values.shape[1]
        room = values.new_full((values.shape[0], channels + 2, *values.shape[2:]), torch.nan)
        if layout == "channels_last_slice":
            room = lay_out(room, "channels_last")
        window = room[:, 1 : channels + 1]
    window.copy_(values)
    return window


@dataclasses.dataclass(frozen=True)
class Tensors:
    """What a `Case` stands for; leaves without grad."""

    input: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    grad_output: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of batch normalization, forward and backward.

    Attributes:
        shape: ``(N, C, *spatial)``.
        dtype: Of input, residual and output.
        layout: Of the input, one of `LAYOUTS`.
        offset: Mean of each channel in standard deviations; every second channel's is negative.
        spread: Standard deviation of each channel; 0 makes them constant.
        constant_channel: The last channel is constant whatever ``spread`` is.
        weight: Pass one.
        bias: Pass one.
        parameters: Dtype of weight and bias; the input's, or float32 beside a half input.
        activation: As in the ops.
        residual: Layout of the residual, or None for none.
        grad: Layout of ``grad_output``; may also be ``expanded``, as ``sum().backward()`` gives.
        eps: Added to the variance.
        seed: Of everything random.
        device: Where the tensors lie; their values are the same everywhere.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    offset: float = 0.0
    spread: float = 1.0
    constant_channel: bool = False
    weight: bool = True
    bias: bool = True
    parameters: torch.dtype = torch.float32
    activation: str | None = None
    residual: str | None = None
    grad: str = "contiguous"
    eps: float = 1e-5
    seed: int = 0
    device: str = "cpu"

    @property
    def accumulator(self) -> torch.dtype:
        """Dtype that statistics and arithmetic are due in."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def count(self) -> int:
        """M, values per channel."""
        return math.prod(self.shape) // self.shape[1]

    def tensors(self) -> Tensors:
        """Build the tensors; the same ones at each call, the drawn values rounded to their dtypes."""
        generator = torch.Generator().manual_seed(self.seed)
        channels = self.shape[1]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def place(values: Tensor, layout: str) -> Tensor:
            return lay_out(values.to(self.device, self.dtype), layout)

        sign = torch.ones(channels, dtype=torch.float64)
        sign[1::2] = -1
        # a constant channel lies at the offset itself, for lack of a standard deviation
        mean = sign * self.offset * (self.spread or 1.0)
        spread = torch.full((channels,), self.spread, dtype=torch.float64)
        if self.constant_channel:
            spread[-1] = 0
        along = (1, -1, *[1] * (len(self.shape) - 2))
        input = mean.view(along) + spread.view(along) * normal(*self.shape)
        grad_output, residual = 0.3 + normal(*self.shape), 2 * normal(*self.shape)
        weight, bias = sign * (1 + 0.3 * normal(channels)), normal(channels)
        # statistics to predict with: near the batch's, not equal to them
        running_mean = mean + 0.5 * (spread + 0.1) * normal(channels)
        running_var = (spread**2 + 0.01) * (
            0.5 + torch.rand(channels, generator=generator, dtype=torch.float64)
        )
        return Tensors(
            input=place(input, self.layout),
            weight=weight.to(self.device, self.parameters) if self.weight else None,
            bias=bias.to(self.device, self.parameters) if self.bias else None,
            residual=None if self.residual is None else place(residual, self.residual),
            grad_output=place(grad_output, self.grad),
            running_mean=running_mean.to(self.device, self.accumulator),
            running_var=running_var.to(self.device, self.accumulator),
        )


@st.composite
def shapes(draw: st.DrawFn, min_count: int = 2, max_elements: int = 10_000) -> tuple[int, ...]:
    """Shapes ``(N, C, *spatial)`` of rank 2 to 5 with at least ``min_count`` values per channel."""
    shape: list[int] = []
    for _ in range(draw(st.integers(2, 5))):
        room = max_elements // math.prod(shape)
        shape.append(draw(st.sampled_from([size for size in SIZES if size <= room])))
    if math.prod(shape) // shape[1] < min_count:
        shape[0] = min_count
    return tuple(shape)


@st.composite
def cases(
    draw: st.DrawFn,
    dtypes: Sequence[torch.dtype] = DTYPES,
    layouts: Sequence[str] = LAYOUTS,
    grads: Sequence[str] = (*LAYOUTS, "expanded"),
    min_count: int = 2,
) -> Case:
    """Cases over everything that batch normalization takes; pass a tuple to hold something fixed."""
    dtype = draw(st.sampled_from(dtypes))
    half = dtype in HALF
    spread = draw(st.sampled_from([1.0, 1e-3, 1e3, 0.0]))
    # float16 ends at 65504; so do its gradients, which invstd multiplies
    largest = 3e4 if dtype == torch.float16 else 1e7
    offsets = [offset for offset in (0.0, 3.0, -100.0, 1e4) if abs(offset) * spread <= largest]
    return Case(
        shape=draw(shapes(min_count)),
        dtype=dtype,
        layout=draw(st.sampled_from(layouts)),
        offset=draw(st.sampled_from(offsets)),
        spread=spread,
        constant_channel=draw(st.booleans()),
        weight=draw(st.booleans()),
        bias=draw(st.booleans()),
        parameters=draw(st.sampled_from([dtype, torch.float32])) if half else dtype,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        residual=draw(st.sampled_from([None, *layouts])),
        grad=draw(st.sampled_from(grads)),
        eps=draw(st.sampled_from([1e-5, 1e-3] if half else [1e-5, 1e-3, 1e-8])),
        seed=draw(st.integers(0, 2**16)),
    )
