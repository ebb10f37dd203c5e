"""The constants of a batch norm that predicts: scale and shift per channel, in float64."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from batchnorm.nn import BatchNorm2d
from batchnorm.surgery.layers import NO_STATISTICS, SCRIPTED, BatchNorm, is_scripted_norm
from batchnorm.surgery.modules import has_hooks, runs_forward_of

__all__ = ["FORWARDS", "TENSORS", "Constants", "constants_of", "is_norm"]

TENSORS = ("running_mean", "running_var", "weight", "bias")
FORWARDS = (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNorm2d)


@dataclasses.dataclass(frozen=True)
class Constants:
    """What a batch norm does in prediction: pool(act(scale · input + shift + residual)).

    Attributes:
        scale: weight / √(running_var + eps), ``(C,)``; float64, on the CPU.
        shift: bias − running_mean · scale, likewise.
        fused: Whether it is one of our layers, which may be called with a residual.
        activation: Of our layers; None elsewhere.
        avg_pool: Size of the windows that are averaged; 1 for none.
        channel_dim: Axis of the channels: 1, or -1 for ours with that argument.
        dims: The only rank of input that the layer takes; None if there are several.
        dtype: In which the layer computes.
        requires_grad: Whether its parameters are trained.
    """

    scale: Tensor
    shift: Tensor
    fused: bool
    activation: str | None
    avg_pool: int
    channel_dim: int
    dims: int | None
    dtype: torch.dtype
    requires_grad: bool

    def is_all(self) -> bool:
        """Whether scale and shift are all that it does, without a residual."""
        return self.activation is None and self.avg_pool == 1


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm: a subclass of torch's, or of a frozen class with its four tensors."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return isinstance(module, BatchNorm)  # and no instance norm
    return all(isinstance(getattr(module, name, None), Tensor) for name in TENSORS)


def constants_of(module: nn.Module, name: str) -> Constants | str:
    """Scale and shift of a batch norm, or why it has none.

    Args:
        module: One for which `is_norm` holds.
        name: For error messages.

    Raises:
        ValueError: If the statistics are not finite or the variance is negative: such a layer is broken,
            folded or not.
    """
    if is_scripted_norm(module):
        return SCRIPTED
    if has_hooks(module):
        return "has hooks"
    if parametrize.is_parametrized(module):
        return "is parametrized"
    if isinstance(module, BatchNorm):
        if not runs_forward_of(module, *FORWARDS):
            return f"{type(module).__name__} has a forward of its own"
        if module.running_mean is None or module.running_var is None:
            return NO_STATISTICS
    fused = runs_forward_of(module, BatchNorm2d)
    # ours may be frozen and then takes the running statistics in training mode too
    if module.learns() if fused else module.training:  # type: ignore[operator]
        return "in training mode: it normalizes with the batch"
    running_mean, running_var, weight, bias = (getattr(module, name) for name in TENSORS)
    mean, var = _exact(running_mean), _exact(running_var)
    if mean.dim() != 1:
        return f"keeps statistics of shape {tuple(mean.shape)}, not one per channel"
    eps = getattr(module, "eps", 1e-5)
    if not (torch.isfinite(mean).all() and torch.isfinite(var).all()):
        raise ValueError(f"fold: running statistics of {name} expected finite numbers, got NaN or infinity")
    if (var < 0).any():
        raise ValueError(f"fold: running_var of {name} expected numbers >= 0, got {var.min().item():.3g}")
    if (var + eps <= 0).any():
        least = (var + eps).min().item()
        raise ValueError(f"fold: running_var + eps of {name} expected numbers > 0, got {least:.3g}")
    scale = (1.0 if weight is None else _exact(weight)) / torch.sqrt(var + eps)
    shift = (0.0 if bias is None else _exact(bias)) - mean * scale
    if not (torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        raise ValueError(f"fold: weight and bias of {name} expected finite numbers, got NaN or infinity")
    constants = Constants(
        scale,
        shift,
        fused,
        getattr(module, "activation", None) if fused else None,
        getattr(module, "avg_pool", 1) if fused else 1,
        getattr(module, "channel_dim", 1) if fused else 1,
        next((dims for kind, dims in _RANKS if isinstance(module, kind)), None),
        torch.promote_types(running_mean.dtype, torch.float32),
        isinstance(weight, nn.Parameter) and weight.requires_grad,
    )
    if not isinstance(module, BatchNorm) and not _does(module, constants):
        return f"{type(module).__name__} has a forward of its own"
    return constants


_RANKS = ((nn.BatchNorm2d, 4), (nn.BatchNorm3d, 5))


def _exact(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)


@torch.no_grad()
def _does(module: nn.Module, constants: Constants) -> bool:
    """Whether a class we do not know computes the formula, tried on four values per channel.

    The frozen batch norms of torchvision, detectron2 and transformers have the four tensors, but eps is
    an attribute in some and a number in the code of others.
    """
    steps = torch.tensor([[-2.0, -0.5], [1.0, 3.0]], dtype=torch.float64)
    input = steps[:, None, :, None].expand(2, len(constants.scale), 2, 1)
    scale, shift = constants.scale[:, None, None], constants.shift[:, None, None]
    expected = input * scale + shift
    running_mean = module.running_mean
    assert isinstance(running_mean, Tensor)
    try:
        output = module(input.to(running_mean))
    except Exception:
        return False
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return False
    rounding = 16 * torch.finfo(running_mean.dtype).eps
    terms = ((input.abs() + _exact(running_mean)[:, None, None].abs()) * scale.abs()) + shift.abs()
    return bool(((_exact(output) - expected).abs() <= rounding * terms).all())
