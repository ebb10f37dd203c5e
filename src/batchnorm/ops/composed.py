"""Normalization with statistics that are put together: of parts of the batch, over processes, corrected.

`normalize_batch` in `autograd` is the common case, one kernel; here its pieces are called one by one,
and what happens between them happens on a few values a channel. Legend: P parts, C channels; statistics are
(P, C) in float64.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

from batchnorm.ops import parts, schema
from batchnorm.ops.autograd import kernels_of
from batchnorm.ops.backend import is_recorded, is_transformed
from batchnorm.ops.collective import Ranks, add_up, gather, group_name, traced_ranks
from batchnorm.ops.moments import Moments, measure
from batchnorm.ops.recompute import remember

__all__ = ["Given", "Scaling", "measure_all", "normalize_parts"]


@dataclasses.dataclass(frozen=True)
class Given:
    """What the statistics of a step are put together from.

    Attributes:
        sizes: Samples of each part, in order.
        weights: Of each value in the statistics, broadcastable to the input; None for 1.
        masked: Some values were left out, by the weights or before.
        ranks: The processes whose values count together; None for this one alone.
        rung: Whose kernels compute, ``eager`` or ``native``.
    """

    sizes: Sequence[int]
    weights: Tensor | None = None
    masked: bool = False
    ranks: Ranks | None = None
    rung: str = "eager"

    @property
    def followed(self) -> bool:
        """Whether autograd follows the statistics, operation by operation, instead of a Function of ours."""
        return self.weights is not None or is_transformed() or is_recorded()

    @property
    def kernels(self) -> Any:
        """The operators on parts."""
        return parts if self.rung == "eager" or self.followed else kernels_of(self.rung)


class Scaling(NamedTuple):
    """How each part is normalized: x_hat = (x − mean) / √(var + eps) · r + d.

    Attributes:
        mean: (P, C).
        var: Biased, (P, C).
        held: Where mean and var are constants and not the part's own, (P, 1) or (P, C) of booleans; None
            for nowhere.
        total: Σ w of the values that they come from, (P, 1) or (P, C); None if they are constants everywhere.
        r: (P, C) or None for 1; a constant.
        d: (P, C) or None for 0; a constant.
    """

    mean: Tensor
    var: Tensor
    held: Tensor | None = None
    total: Tensor | None = None
    r: Tensor | None = None
    d: Tensor | None = None

    def moved_to(self, total: Moments) -> "Scaling":
        """The same with the part's own statistics taken from ``total``, which autograd follows."""
        if self.held is None:
            return self._replace(mean=total.mean, var=total.var())
        mean = torch.where(self.held, self.mean, total.mean)
        return self._replace(mean=mean, var=torch.where(self.held, self.var, total.var()))

    def coefficients(
        self, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``invstd``, scale and shift of z = (x − mean) · scale + shift; (P, C)."""
        invstd = (self.var + eps).rsqrt()
        scale = invstd if self.r is None else invstd * self.r
        shift = torch.zeros_like(scale) if self.d is None else self.d
        if weight is not None:
            scale, shift = scale * weight.double(), shift * weight.double()
        return invstd, scale, shift if bias is None else shift + bias.double()


def measure_all(input: Tensor, given: Given) -> Moments:
    """Moments of the parts over all ranks, by one collective; differentiable if they are to be followed."""
    if not given.followed:
        with torch.no_grad():
            return _measure_all(input, given)
    return _measure_all(input, given)


def _measure_all(input: Tensor, given: Given) -> Moments:
    own = measure(input, given.sizes, given.weights, given.kernels)
    if given.ranks is None:
        return own
    packed, channels = own.packed(), input.shape[1]
    if torch.compiler.is_compiling():
        merged = torch.ops.batchnorm.traced_merge(packed, group_name(given.ranks), channels)
    else:
        merged = _Merge.apply(packed, given.ranks, channels)  # type: ignore[no-untyped-call]
    total, squares, mean, var = cast(tuple[Tensor, ...], merged)
    total = total.detach()  # what depends on it goes through mean and var
    return Moments(total, squares, mean, var * total)


class _Merge(Function):
    """Moments of all ranks from each one's own: Σ w, Σ w², mean and biased variance.

    Backward sends what `_gradients` sends, so that ranks with weights and ranks without go together.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, ranks: Ranks, channels: int) -> tuple[Tensor, ...]:
        merged = Moments.unpacked(gather(packed, ranks), channels).merged()
        total, mean, var = merged.total, merged.mean, merged.var()
        ctx.ranks = ranks
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(packed, total, mean, var)
        return total, merged.squares, mean, var

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, _: Any, *grads: Tensor | None) -> Any:
        packed, total, mean, var = ctx.saved_tensors
        own = Moments.unpacked(packed, mean.shape[1])
        grad_mean, grad_var = (torch.zeros_like(mean) if grad is None else grad for grad in grads)
        through = add_up(torch.stack((grad_mean, grad_var)), ctx.ranks)
        grad_mean, grad_var = through / torch.where(total > 0, total, 1)
        off = own.mean - mean
        of_total = (grad_mean * off + grad_var * (off**2 - var)).sum_to_size(own.total.shape)
        if grad_total is not None:  # of second derivatives
            of_total = of_total + add_up(grad_total, ctx.ranks)
        of_mean = own.total * (grad_mean + 2 * grad_var * off)
        return Moments(of_total, torch.zeros_like(own.squares), of_mean, grad_var).packed(), None, None


def normalize_parts(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    scaling: Scaling,
    given: Given,
    eps: float,
    activation: int,
) -> Tensor:
    """Return act(x_hat · weight + bias + residual).

    Where autograd follows the statistics, plain torch operations go on from there; else a Function, whose
    backward is two passes over the tensors and one collective between them.
    """
    if given.followed or not torch.is_grad_enabled():
        return _apply(input, weight, bias, residual, scaling, given, eps, activation)
    leaves = (input, weight, bias, residual)
    if torch.compiler.is_compiling():
        group = None if given.ranks is None else group_name(given.ranks)
        rest = given.sizes, group, eps, activation, given.rung
        return cast(Tensor, torch.ops.batchnorm.traced_normalize_parts(*leaves, *scaling, *rest))
    arguments = scaling, given, eps, activation
    output = cast(Tensor, _NormalizeParts.apply(*leaves, *arguments))  # type: ignore[no-untyped-call]
    remember(output, _apply, *leaves, *arguments)
    return output


def _traced_normalize_parts(*arguments: Any) -> Any:
    leaves, scaling, (sizes, group, *rest, rung) = arguments[:4], Scaling(*arguments[4:10]), arguments[10:]
    given = Given(sizes, ranks=None if group is None else traced_ranks(group), rung=rung)
    return _NormalizeParts.apply(*leaves, scaling, given, *rest)  # type: ignore[no-untyped-call]


def _traced_merge(packed: Tensor, group: str, channels: int) -> Any:
    return _Merge.apply(packed, traced_ranks(group), channels)  # type: ignore[no-untyped-call]


schema.implement("traced_normalize_parts", _traced_normalize_parts)
schema.implement("traced_merge", _traced_merge)


def _apply(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    scaling: Scaling,
    given: Given,
    eps: float,
    activation: int,
) -> Tensor:
    _, scale, shift = scaling.coefficients(weight, bias, eps)
    forward = given.kernels.forward_apply
    return cast(Tensor, forward(input, scaling.mean, scale, shift, residual, given.sizes, activation))


class _NormalizeParts(Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        scaling: Scaling,
        given: Given,
        eps: float,
        activation: int,
    ) -> Tensor:
        ctx.has_residual = residual is not None
        ctx.settings = given, eps, activation
        ctx.save_for_backward(input, weight, bias, residual if activation else None, *scaling)
        return _apply(input, weight, bias, residual, scaling, given, eps, activation)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        saved = ctx.saved_tensors  # once: activation checkpointing gives them out one time only
        leaves, scaling = saved[:4], Scaling(*saved[4:])
        if torch.is_grad_enabled():  # create_graph=True: stay differentiable, through the statistics too
            gradients = _followed(grad_output, leaves, scaling, *ctx.settings)
        else:
            gradients = _gradients(grad_output, leaves, ctx.needs_input_grad[0], scaling, *ctx.settings)
        grad_residual = gradients[3] if ctx.settings[2] else grad_output
        return *gradients[:3], grad_residual if ctx.has_residual else None, *(None,) * 4


_Leaves = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


def _gradients(
    grad_output: Tensor,
    leaves: _Leaves,
    input_wanted: bool,
    scaling: Scaling,
    given: Given,
    eps: float,
    activation: int,
) -> tuple[Tensor | None, ...]:
    """By hand, as `reference` derives it, for each part: two passes, one collective between them."""
    input, weight, bias, residual = leaves
    kernels, sizes = given.kernels, given.sizes
    invstd, scale, shift = scaling.coefficients(weight, bias, eps)
    z = scaling.mean, scale, shift
    first, second, grad_residual = kernels.backward_reduce(
        grad_output, input, *z, residual, sizes, activation
    )
    grad_weight, grad_bias = invstd * second, first.sum(0)
    if scaling.r is not None and scaling.d is not None:
        grad_weight = grad_weight * scaling.r + scaling.d * first
    grad_input = None
    if input_wanted:
        slope = offset = torch.zeros_like(scale)
        if scaling.total is not None:
            # gradients of mean and var
            moved = -scale if scaling.held is None else torch.where(scaling.held, 0, -scale)
            through = torch.stack((moved * first, moved * invstd**2 / 2 * second))
            if given.ranks is not None:
                through = add_up(through, given.ranks)
            offset, slope = through[0] / scaling.total, 2 * through[1] / scaling.total
        grad_input = kernels.backward_apply(
            grad_output, input, *z, slope, offset, residual, sizes, activation
        )
    return (
        grad_input,
        None if weight is None else grad_weight.sum(0).to(weight.dtype),
        None if bias is None else grad_bias.to(bias.dtype),
        grad_residual,
    )


def _followed(
    grad_output: Tensor, leaves: _Leaves, scaling: Scaling, given: Given, eps: float, activation: int
) -> tuple[Tensor | None, ...]:
    """By autograd, from the statistics on, so that autograd can follow it again."""
    given = dataclasses.replace(given, rung="eager")
    # views, since one leaf may be made of another, and the gradient of a view does not run on through that
    leaves = cast(_Leaves, tuple(None if leaf is None else leaf.view_as(leaf) for leaf in leaves))
    if scaling.total is not None:
        scaling = scaling.moved_to(_measure_all(leaves[0], given))
    output = _apply(*leaves, scaling, given, eps, activation)
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True, materialize_grads=True))
    return tuple(next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves)
