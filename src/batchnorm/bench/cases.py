"""What is computed, how many bytes that must move, and the tensors to compute it with."""

import dataclasses

import torch
from torch import Tensor

__all__ = ["CASES", "DTYPES", "LAYOUTS", "Case", "Problem", "make_problem"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
LAYOUTS = ("contiguous", "channels_last")

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that layers are used for.

    Attributes:
        name: For the person.
        activation: What follows the normalization, or None.
        residual: Whether a tensor is added before the activation.
        training: Batch statistics and autograd; else running statistics without autograd.
        backward: Gradients of everything too.
        tensors_moved: How many tensors of the input's size are read or written at least, if none
            stays in a cache from one pass to the next.
    """

    name: str
    activation: str | None
    residual: bool
    training: bool
    backward: bool
    tensors_moved: int


# What tensors_moved counts. Nothing of the output can be written before all of x is read, and nothing
# of grad_input before all of x and grad_output, so both are read twice. That grad_output is masked
# or scaled by the activation takes no traffic: it follows from x, which is at hand.
# Forward: read x; read x, write y: 3. Backward: read x, grad_output; read both, write grad_input: 5.
# Residual: forward reads it too: 4. Backward's first pass reads x, grad_output and, for the mask,
# the residual or y, and writes grad_residual, which is the masked grad_output; the second reads x and
# grad_residual and writes grad_input: 7. Prediction: read x, write y: 2.
CASES = {
    case.name: case
    for case in (
        Case("forward", None, residual=False, training=True, backward=False, tensors_moved=3),
        Case("forward+backward", None, residual=False, training=True, backward=True, tensors_moved=8),
        Case("relu", "relu", residual=False, training=True, backward=True, tensors_moved=8),
        Case("add+relu", "relu", residual=True, training=True, backward=True, tensors_moved=11),
        Case("sigmoid", "sigmoid", residual=False, training=True, backward=True, tensors_moved=8),
        Case("predict", "relu", residual=False, training=False, backward=False, tensors_moved=2),
    )
}


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A case with its tensors; the peers get the same ones.

    Attributes:
        case: What to compute.
        x: Input, ``(N, C, *spatial)``.
        residual: Of x's shape, dtype and layout, or None.
        grad_output: Of x's shape, dtype and layout.
        weight: ``(C,)``; float32 beside half data.
        bias: ``(C,)``, as ``weight``.
        running_mean: ``(C,)``, as ``weight``.
        running_var: ``(C,)``, as ``weight``.
    """

    case: Case
    x: Tensor
    residual: Tensor | None
    grad_output: Tensor
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    @property
    def bytes_moved(self) -> int:
        """Bytes that are read or written at least."""
        return self.case.tensors_moved * self.x.nbytes

    def copy(self) -> "Problem":
        """The same values in memory of their own; parameters and statistics are shared."""

        def copy(values: Tensor) -> Tensor:
            return values.detach().clone().requires_grad_(values.requires_grad)

        residual = None if self.residual is None else copy(self.residual)
        return dataclasses.replace(
            self, x=copy(self.x), residual=residual, grad_output=copy(self.grad_output)
        )


def make_problem(
    case: Case, shape: tuple[int, ...], dtype: str, layout: str, seed: int, device: str = "cpu"
) -> Problem:
    """Draw the tensors: x has mean 1 and standard deviation 2, the others are of order 1.

    Args:
        case: What to compute.
        shape: ``(N, C, *spatial)``.
        dtype: A name from `DTYPES`.
        layout: A name from `LAYOUTS` that the shape has.
        seed: Same seed, same tensors.
        device: Where they lie.
    """
    generator = torch.Generator().manual_seed(seed)
    stored = DTYPES[dtype]
    held = torch.float64 if stored == torch.float64 else torch.float32
    memory_format = torch.contiguous_format if layout == "contiguous" else _CHANNELS_LAST[len(shape)]

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator)

    def place(values: Tensor) -> Tensor:
        return values.to(stored).contiguous(memory_format=memory_format).to(device)

    def per_channel() -> Tensor:
        return torch.rand(shape[1], generator=generator).to(device, held) + 0.5

    return Problem(
        case=case,
        x=place(1 + 2 * normal()).requires_grad_(case.training),
        residual=place(normal()).requires_grad_(case.training) if case.residual else None,
        grad_output=place(normal()),
        weight=per_channel(),
        bias=per_channel() - 1,
        running_mean=per_channel(),
        running_var=per_channel(),
    )
