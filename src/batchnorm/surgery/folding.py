"""Scale and shift put into the weights of a neighbouring layer, in float64.

A layer is y = W x + b, per position; a batch norm that predicts is z = scale · y + shift. After the
layer it gives W' = scale · W and b' = scale · b + shift, by output channel; before it, with z in the
place of x, W' = W · scale by input channel and b' = b + W · shift.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from batchnorm.surgery.axes import Axis
from batchnorm.surgery.constants import Constants
from batchnorm.surgery.modules import has_hooks, runs_forward_of

__all__ = [
    "Weighted",
    "channels_of",
    "fold_after",
    "fold_before",
    "is_output_axis",
    "is_plain",
    "takes_shift",
    "why_not",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)

Weighted = nn.modules.conv._ConvNd | nn.Linear
"""The layers with weights that can take a batch norm in."""


def is_plain(module: nn.Module) -> TypeGuard[Weighted]:
    """Whether a module is a layer with weights that runs torch's own forward, subclass or not."""
    return (
        isinstance(module, Weighted)
        and runs_forward_of(module, *_LAYERS)
        and any(
            getattr(type(module), "_conv_forward", None) is getattr(kind, "_conv_forward", None)
            for kind in _LAYERS
        )
    )


def why_not(module: Weighted) -> str | None:
    """Why a plain layer cannot take a batch norm in; None if it can."""
    if has_hooks(module):
        return "has hooks"
    if parametrize.is_parametrized(module) or not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "is parametrized"
    if not module.weight.is_floating_point():
        return f"has weights of dtype {module.weight.dtype}"
    return None


def channels_of(module: Weighted) -> tuple[int, int]:
    """Number of input and output channels."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def is_output_axis(module: Weighted, axis: Axis) -> bool:
    """Whether an axis of a layer's output has its channels: the last of Linear's, else axis 1."""
    place, rank = axis
    if isinstance(module, nn.Linear):
        return place == rank - 1
    return (place, rank) == (1, 2 + len(module.kernel_size))


@torch.no_grad()
def fold_before(module: Weighted, constants: Constants) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that also does the batch norm after it; float64.

    Args:
        module: The layer, ``why_not(module)`` None; out channels as the batch norm has.
        constants: Of the batch norm.
    """
    weight, bias = _exact(module)
    outputs = _by_output(module, weight)
    groups, _, channels = outputs.shape[:3]
    outputs *= constants.scale.view(groups, 1, channels, *[1] * (outputs.dim() - 3))
    return weight, bias * constants.scale + constants.shift


@torch.no_grad()
def fold_after(module: Weighted, constants: Constants) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that also does the batch norm before it; float64.

    Exact if ``takes_shift(module)`` or the shift is zero.

    Args:
        module: The layer, ``why_not(module)`` None; in channels as the batch norm has.
        constants: Of the batch norm.
    """
    weight, bias = _exact(module)
    outputs = _by_output(module, weight)
    groups, inputs = outputs.shape[:2]
    by_input = (groups, inputs, *[1] * (outputs.dim() - 2))
    scale, shift = constants.scale.view(by_input), constants.shift.view(by_input)
    places = (1, *range(3, outputs.dim()))  # the inputs of a group and the places of the kernel
    bias += (outputs * shift).sum(places).flatten()
    outputs *= scale
    return weight, bias


def takes_shift(module: Weighted) -> bool:
    """Whether a shift of the input gives the same shift of the output at every place.

    Not where zeros are padded, since they come after the batch norm and are not shifted; nor where a
    transposed convolution gathers from fewer inputs at some places than at others.
    """
    if isinstance(module, nn.Linear):
        return True
    ones = all(size == 1 for size in module.kernel_size)
    if isinstance(module, _TRANSPOSED):
        still = (*module.padding, *module.output_padding, *(step - 1 for step in module.stride))
        return ones and not any(still)
    if module.padding_mode != "zeros" or module.padding == "valid":
        return True  # what is padded otherwise are shifted values
    return ones if module.padding == "same" else not any(module.padding)


def _exact(module: Weighted) -> tuple[Tensor, Tensor]:
    weight = module.weight.detach().to("cpu", torch.float64, copy=True)
    if module.bias is None:
        groups, _, channels = _by_output(module, weight).shape[:3]
        return weight, weight.new_zeros(groups * channels)
    return weight, module.bias.detach().to("cpu", torch.float64, copy=True)


def _by_output(module: Weighted, weight: Tensor) -> Tensor:
    """A view of the weight with axes (groups, inputs of a group, outputs of a group, *kernel)."""
    if isinstance(module, nn.Linear):
        return weight.t()[None]
    groups = weight.view(module.groups, -1, *weight.shape[1:])
    return groups if isinstance(module, _TRANSPOSED) else groups.transpose(1, 2)
