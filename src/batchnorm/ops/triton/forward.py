"""Forward: two launches for the statistics, one to normalize, add and activate.

Nothing is written before all of x is read, so x is read twice and y written once: three tensors of
traffic, four with a residual. The second pass takes the programs in the opposite order, and finds in the
cache what the first read last.

Legend: see `tiles`.
"""

import triton
import triton.language as tl
from torch import Tensor

from batchnorm.ops.activations import ACTIVATIONS
from batchnorm.ops.triton.activations import activate
from batchnorm.ops.triton.geometry import Run
from batchnorm.ops.triton.moments import MERGE, batch_norm_statistics_kernel, merge_grid, partial_moments
from batchnorm.ops.triton.running import update_running_stats
from batchnorm.ops.triton.tiles import coefficients, lanes, locate, place
from batchnorm.ops.triton.view import Channels, View

__all__ = ["batch_norm_forward", "batch_norm_forward_update", "launch_forward", "normalize"]

Forward = tuple[Tensor, Tensor, Tensor]
Running = tuple[Tensor, Tensor, Tensor | None, float]


@triton.jit
def batch_norm_fwd_kernel(
    x_ptr,
    residual_ptr,
    y_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    first_row,
    rows,
    C,
    S,
    tiles,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write y = act((x − mean) · scale + shift + residual)."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part, _at, c0, row, first, end = locate(program, first_row, rows, C, S, tiles, BLOCK_N, BLOCK_C, BLOCK_S)
    mean, scale, shift = coefficients(mean_ptr, var_ptr, weight_ptr, bias_ptr, part, c0, C, EPS, ACC, BLOCK_C)
    n, c, s, offsets = lanes(C, S, BLOCK_N, BLOCK_C, BLOCK_S, WIDE)
    for t in range(first, end):
        start, mask, _values = place(t, n, c, s, row, rows, c0, C, S, BLOCK_N, BLOCK_S)
        x = tl.load(x_ptr + start + offsets, mask=mask, other=0).to(ACC)
        z = (x - mean) * scale + shift
        if residual_ptr is not None:
            z += tl.load(residual_ptr + start + offsets, mask=mask, other=0).to(ACC)
        tl.store(y_ptr + start + offsets, activate(z, ACTIVATION), mask=mask)


def launch_forward(
    view: View,
    run: Run,
    residual: Tensor | None,
    output: Tensor,
    channels: Channels,
    eps: float,
    activation: int,
) -> None:
    """Write ``output`` for the samples of a run."""
    batch_norm_fwd_kernel[view.grid(run)](
        view.x,
        residual,
        output,
        *channels,
        EPS=eps,
        ACTIVATION=ACTIVATIONS[activation],
        **view.tiling(run),
    )


def normalize(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
) -> Tensor:
    """See `eager.normalize`."""
    view = View("normalize", input)
    return _normalized(view, mean, var, weight, bias, residual, eps, activation)


def _normalized(
    view: View,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
) -> Tensor:
    output = view.empty_like()
    added = None if residual is None else view.like(residual, "residual")
    channels = view.of_channels(mean, var, weight, bias)
    for run in view.runs([view.samples]):
        launch_forward(view, run, added, output, channels, eps, activation)
    return output


def batch_norm_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
) -> Forward:
    """See `eager.batch_norm_forward`."""
    view = View("batch_norm_forward", input)
    mean, var = _statistics(view, None)
    return _normalized(view, mean, var, weight, bias, residual, eps, activation), mean, var


def batch_norm_forward_update(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    eps: float,
    activation: int,
    momentum: float | None,
    skip_nonfinite: bool,
) -> Forward:
    """See `eager.batch_norm_forward_update`."""
    view = View("batch_norm_forward_update", input)
    at_once = (
        momentum is not None
        and not skip_nonfinite
        and view.x.numel() > 0
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
    )
    running = (running_mean, running_var, num_batches_tracked)
    if at_once:
        view.rows(running_mean, "running_mean")
        view.rows(running_var, "running_var")
        mean, var = _statistics(view, (*running, momentum or 0.0))
    else:
        mean, var = _statistics(view, None)
        update_running_stats(*running, mean, var, view.count, momentum, skip_nonfinite)
    return _normalized(view, mean, var, weight, bias, residual, eps, activation), mean, var


def _statistics(view: View, running: Running | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the batch; moves the running ones in the same launch."""
    mean, var = view.empty_channels(), view.empty_channels()
    if view.count == 0:
        return mean.fill_(float("nan")), var.fill_(float("nan"))
    for run in view.runs([view.samples]):
        partials = partial_moments(view, run)
        batch_norm_statistics_kernel[merge_grid(view)](
            *partials,
            mean,
            var,
            *(running or (None, None, None, 0.0)),
            partials[1].shape[1],
            view.channels,
            **MERGE,
        )
    return mean, var
