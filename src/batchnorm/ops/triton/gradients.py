"""The backward operators of a whole batch: which kernels, with what."""

import torch
from torch import Tensor

from batchnorm.ops.activations import ACTIVATIONS
from batchnorm.ops.triton.backward import (
    batch_norm_bwd_kernel,
    batch_norm_bwd_reduce_kernel,
    batch_norm_bwd_statistics_kernel,
)
from batchnorm.ops.triton.geometry import Run
from batchnorm.ops.triton.moments import MERGE, merge_grid
from batchnorm.ops.triton.view import Channels, View

__all__ = ["batch_norm_backward", "launch_backward", "launch_reduce", "normalize_backward"]

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]

# Their derivative is 0 or 1, so the residual's gradient holds the pre-activation's to the last bit.
_SWITCHES = (ACTIVATIONS.index("relu"), ACTIVATIONS.index("relu6"))


def launch_reduce(
    view: View,
    run: Run,
    grad: Tensor,
    residual: Tensor | None,
    dz: Tensor | None,
    dx: Tensor | None,
    channels: Channels,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor]:
    """Partial sums of dz and dz · (x − mean), each (P, K, C) in float64; writes ``dz`` and ``dx``."""
    shape = run.parts, view.cut(run).splits, view.channels
    sums, centred = view.doubles(*shape), view.doubles(*shape)
    batch_norm_bwd_reduce_kernel[view.grid(run)](
        grad,
        view.x,
        residual,
        dz,
        dx,
        *channels,
        sums,
        centred,
        EPS=eps,
        ACTIVATION=ACTIVATIONS[activation],
        **view.tiling(run),
    )
    return sums, centred


def launch_backward(
    view: View,
    run: Run,
    grad: Tensor,
    residual: Tensor | None,
    dx: Tensor,
    channels: Channels,
    slope: Tensor,
    offset: Tensor,
    eps: float,
    activation: int,
) -> None:
    """Write ``dx`` for the samples of a run."""
    batch_norm_bwd_kernel[view.grid(run)](
        grad,
        view.x,
        residual,
        dx,
        *channels,
        slope,
        offset,
        EPS=eps,
        ACTIVATION=ACTIVATIONS[activation],
        **view.tiling(run),
    )


def _backward(
    view: View,
    grad_output: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: int,
    constant: bool,
) -> Gradients:
    grad = view.like(grad_output, "grad_output")
    if activation == 0 or residual is None:
        residual = grad_residual = None
    else:
        residual, grad_residual = view.like(residual, "residual"), view.empty_like()
    channels = view.of_channels(mean, var, weight, bias)
    grad_input = view.empty_like()
    grad_weight, grad_bias, slope, offset = (view.empty_channels() for _ in range(4))
    if view.count == 0:
        grad_weight.zero_()
        grad_bias.zero_()
    for run in view.runs([view.samples]):
        sums, centred = launch_reduce(
            view,
            run,
            grad,
            residual,
            grad_residual,
            grad_input if constant else None,
            channels,
            eps,
            activation,
        )
        batch_norm_bwd_statistics_kernel[merge_grid(view)](
            sums,
            centred,
            channels[1],
            channels[2],
            grad_weight,
            grad_bias,
            None if constant else slope,
            offset,
            view.count,
            sums.shape[1],
            view.channels,
            EPS=eps,
            **MERGE,
        )
        if not constant:
            if grad_residual is not None and (
                activation in _SWITCHES or view.x.dtype in (torch.float32, torch.float64)
            ):
                grad, residual, activation = grad_residual, None, 0
            launch_backward(view, run, grad, residual, grad_input, channels, slope, offset, eps, activation)
    nothing = view.x.new_empty((0,))
    return grad_input, grad_weight, grad_bias, nothing if grad_residual is None else grad_residual


def batch_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: int,
) -> Gradients:
    """See `eager.batch_norm_backward`."""
    view = View("batch_norm_backward", input)
    return _backward(view, grad_output, weight, bias, residual, mean, var, eps, activation, constant=False)


def normalize_backward(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
) -> Gradients:
    """See `eager.normalize_backward`."""
    view = View("normalize_backward", input)
    return _backward(view, grad_output, weight, bias, residual, mean, var, eps, activation, constant=True)
