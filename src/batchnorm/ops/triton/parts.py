"""The operators over parts of a batch: the same kernels, with a row of coefficients for each part."""

from torch import Tensor

from batchnorm.ops.triton.backward import batch_norm_bwd_merge_kernel
from batchnorm.ops.triton.forward import launch_forward
from batchnorm.ops.triton.geometry import Run
from batchnorm.ops.triton.gradients import launch_backward, launch_reduce
from batchnorm.ops.triton.moments import MERGE, merge_grid
from batchnorm.ops.triton.view import Channels, View

__all__ = ["backward_apply", "backward_reduce", "forward_apply"]


def _matrices(view: View, parts: int, **named: Tensor) -> dict[str, Tensor]:
    return {name: view.rows(values, name, parts) for name, values in named.items()}


def _channels(run: Run, z: dict[str, Tensor]) -> Channels:
    """The rows of a run, as `tiles.coefficients` takes them."""
    mean, scale, shift = (z[name][run.first_part :] for name in ("mean", "scale", "shift"))
    return mean, None, scale, shift


def forward_apply(
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    sizes: list[int],
    activation: int,
) -> Tensor:
    """See `parts.forward_apply`."""
    view = View("forward_apply", input)
    z = _matrices(view, len(sizes), mean=mean, scale=scale, shift=shift)
    added = None if residual is None else view.like(residual, "residual")
    output = view.empty_like()
    for run in view.runs(sizes):
        launch_forward(view, run, added, output, _channels(run, z), 0.0, activation)
    return output


def backward_reduce(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    sizes: list[int],
    activation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `parts.backward_reduce`."""
    view = View("backward_reduce", input)
    z = _matrices(view, len(sizes), mean=mean, scale=scale, shift=shift)
    grad = view.like(grad_output, "grad_output")
    added = dz = None
    if residual is not None and activation != 0:
        added, dz = view.like(residual, "residual"), view.empty_like()
    first, second = (view.doubles(len(sizes), view.channels).zero_() for _ in range(2))
    for run in view.runs(sizes):
        partials = launch_reduce(view, run, grad, added, dz, None, _channels(run, z), 0.0, activation)
        batch_norm_bwd_merge_kernel[merge_grid(view, run.parts)](
            *partials,
            first[run.first_part :],
            second[run.first_part :],
            partials[0].shape[1],
            view.channels,
            **MERGE,
        )
    return first, second, view.x.new_empty((0,)) if dz is None else dz


def backward_apply(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    residual: Tensor | None,
    sizes: list[int],
    activation: int,
) -> Tensor:
    """See `parts.backward_apply`."""
    view = View("backward_apply", input)
    z = _matrices(view, len(sizes), mean=mean, scale=scale, shift=shift)
    through = _matrices(view, len(sizes), slope=slope, offset=offset)
    grad = view.like(grad_output, "grad_output")
    added = view.like(residual, "residual") if residual is not None and activation != 0 else None
    grad_input = view.empty_like()
    for run in view.runs(sizes):
        slopes, offsets = (values[run.first_part :] for values in through.values())
        launch_backward(
            view, run, grad, added, grad_input, _channels(run, z), slopes, offsets, 0.0, activation
        )
    return grad_input
