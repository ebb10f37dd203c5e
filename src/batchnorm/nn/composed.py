"""The forward pass of a layer whose statistics are not simply the batch's own, or that has a mask."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from batchnorm.nn.averages import follow, is_repetition
from batchnorm.nn.choice import as_domain, as_step
from batchnorm.nn.corrections import corrected
from batchnorm.nn.cut import Cut, cut_batch
from batchnorm.nn.statistics import Renorm, Rows, Synced
from batchnorm.ops import masks
from batchnorm.ops.activations import activation_code
from batchnorm.ops.arguments import check_arguments, refuse_nonfinite, refuse_one_value
from batchnorm.ops.backend import is_transformed, kernel_rung
from batchnorm.ops.collective import Ranks, agree, group_key, ranks_of
from batchnorm.ops.composed import Given, Scaling, measure_all, normalize_parts
from batchnorm.ops.moments import Moments
from batchnorm.ops.pooling import average, check_windows
from batchnorm.ops.running import rows_of, uncounted

__all__ = ["EXCLUDED", "composed_forward", "forward_with_channels_last"]

EXCLUDED = ("zero", "normalize")


def composed_forward(
    layer: Any,
    input: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    domain: int | Tensor | None,
    step: int | Sequence[int] | Tensor | None,
) -> Tensor:
    """`BatchNorm2d.forward` for every kind of statistics, mask and place of the channels."""
    if layer.backend == "torch":
        raise ValueError("batch_norm: backend expected another with a mask, step or domain, got 'torch'")
    if layer.channel_dim == -1:
        input, residual = input.movedim(-1, 1), None if residual is None else residual.movedim(-1, 1)
        mask = mask.movedim(-1, 1) if mask is not None and mask.dim() == input.dim() else mask
    if layer.avg_pool != 1:
        check_windows(layer.avg_pool, input)
    weights = None if mask is None else masks.as_weights(mask, input)
    cut = cut_batch(layer.stats, input, layer.learns(), as_domain(domain, input.shape[0]), as_step(step))
    row = _only_row(layer, input, cut)
    if row is not None and mask is None:
        output: Tensor = layer.forward_on_row(input, residual, row)
        return output
    x, added, weights = (cut.arranged(values) for values in (input, residual, weights))
    assert x is not None
    if layer.channel_dim == 1:
        return average(cut.restored(_masked(layer, x, added, weights, cut)), layer.avg_pool)
    # (N, *spatial, C) is (N · positions, C): every position is a sample of its own
    shape, positions = x.movedim(1, -1).shape, x[:1, :1].numel()
    cut_rows = dataclasses.replace(cut, sizes=tuple(size * positions for size in cut.sizes))
    flat, added, weights = (
        None if v is None else v.movedim(1, -1).flatten(0, -2) for v in (x, added, weights)
    )
    assert flat is not None
    return cut.restored(_masked(layer, flat, added, weights, cut_rows).view(shape))


def forward_with_channels_last(layer: Any, input: Tensor, residual: Tensor | None) -> Tensor:
    """The forward pass of `Batch` on ``(N, *spatial, C)``: every position is a sample of its own."""
    if residual is not None and residual.shape == input.shape:
        residual = residual.flatten(0, -2)
    output: Tensor = layer.forward_on_row(input.flatten(0, -2), residual)
    return output.view_as(input)


def _only_row(layer: Any, input: Tensor, cut: Cut) -> int | None:
    """The row of a batch that is all one part, and otherwise as for `Batch`; None if it is not."""
    if cut.rows is None or len(cut.rows) != 1 or layer.channel_dim != 1 or not isinstance(layer.stats, Rows):
        return None
    # a row taken inside a transform of torch.func is its own, and may not move what lies outside
    enough = input.numel() > input.shape[1] and not is_transformed()
    return cut.rows[0] if enough or not layer.learns() else None


def _masked(layer: Any, input: Tensor, residual: Tensor | None, weights: Tensor | None, cut: Cut) -> Tensor:
    if weights is None:
        return _normalized(layer, input, residual, Given(cut.sizes), cut.rows)
    in_positions = weights.dtype == torch.bool and weights.shape[1] == 1
    if in_positions and layer.excluded == "zero" and not (torch.compiler.is_compiling() or is_transformed()):
        # as if the excluded positions did not exist: those that are left are samples of their own
        few = masks.take(input, weights)
        few_residual = None if residual is None else masks.take(residual, weights)
        sizes = tuple(int(part.sum()) for part in torch.split(weights, list(cut.sizes)))
        output = _normalized(layer, few, few_residual, Given(sizes, masked=True), cut.rows)
        return masks.put_back(output, weights, input)
    given = Given(cut.sizes, weights, masked=True)
    if layer.excluded == "normalize":
        return _normalized(layer, input, residual, given, cut.rows)
    # not the output alone: on the way back 0 · NaN is NaN
    counts = weights > 0
    input = torch.where(counts, input, 0)
    residual = None if residual is None else torch.where(counts, residual, 0)
    return torch.where(counts, _normalized(layer, input, residual, given, cut.rows), 0)


def _normalized(
    layer: Any, input: Tensor, residual: Tensor | None, given: Given, rows: tuple[int, ...] | None
) -> Tensor:
    learns, mean, var = layer.learns(), layer.running_mean, layer.running_var
    training = learns or mean is None
    row, row_too = (None if r is None else r.view(-1, r.shape[-1])[0] for r in (mean, var))
    check_arguments(
        input, row, row_too, layer.weight, layer.bias, residual, training, layer.eps, layer.nonfinite
    )
    given = dataclasses.replace(given, rung=kernel_rung(layer.backend, input))
    rest = layer.eps, activation_code(layer.activation)
    if not training:
        scaling = Scaling(rows_of(mean, rows), rows_of(var, rows))
        given = dataclasses.replace(given, weights=None)
        return normalize_parts(input, layer.weight, layer.bias, residual, scaling, given, *rest)
    given = dataclasses.replace(given, ranks=_ranks(layer, input) if learns else None)
    total = measure_all(input, given)
    known = total.detached()
    _check_values(input, known, given, rows)
    if layer.nonfinite == "raise":
        refuse_nonfinite(known.mean, known.m2)
    scaling = _scaling(layer, input, known, given, rows)
    if given.followed:
        scaling = scaling.moved_to(total)
    output = normalize_parts(input, layer.weight, layer.bias, residual, scaling, given, *rest)
    if learns and layer.track_running_stats and mean is not None and not is_repetition():
        follow(layer, known, rows)
    return output


def _ranks(layer: Any, input: Tensor) -> Ranks | None:
    synced = layer.stats.find(Synced)
    ranks = None if synced is None else ranks_of(synced.group, layer.title())
    if ranks is not None and not torch.compiler.is_compiling():
        key = group_key(ranks)
        if layer.agreed_with != key:
            agree(ranks, input.shape[1], input.device)
            layer.agreed_with = key
    return ranks


def _check_values(input: Tensor, known: Moments, given: Given, rows: tuple[int, ...] | None) -> None:
    """Refuse what no statistics can be had of; read from the device only where the shape does not tell."""
    values = input.numel() // max(input.shape[1], 1)
    if torch.compiler.is_compiling() or is_transformed() or (values > 1 and not given.masked):
        return
    if given.masked and not (known.total > 0).any():
        where = "in this process" if given.ranks is None else "in any process of the group"
        raise ValueError(f"batch_norm: mask expected a true value, got none {where}")
    one_total = rows is None and len(given.sizes) == 1 and known.total.shape[1] == 1
    if one_total and (known.total > 0) & (known.freedom() == 0):
        refuse_one_value(input)


def _scaling(
    layer: Any, input: Tensor, known: Moments, given: Given, rows: tuple[int, ...] | None
) -> Scaling:
    scaling = Scaling(known.mean, known.var(), total=known.total)
    lonely, renorm = _may_be_lonely(input, given, rows), layer.stats.find(Renorm)
    if not lonely and renorm is None:
        return scaling
    if layer.running_mean is None:
        running_mean, running_var = torch.zeros_like(known.mean), torch.ones_like(known.mean)
    else:
        running_mean, running_var = rows_of(layer.running_mean, rows), rows_of(layer.running_var, rows)
    if lonely:
        # what has fewer than two values has no statistics of its own
        held = known.freedom() == 0
        mean, var = torch.where(held, running_mean, known.mean), torch.where(held, running_var, scaling.var)
        scaling = scaling._replace(mean=mean, var=var, held=held)
    if renorm is not None:
        with uncounted():
            r, d = corrected(layer, scaling.mean, scaling.var, running_mean, running_var, rows)
        scaling = scaling._replace(r=r, d=d)
    return scaling


def _may_be_lonely(input: Tensor, given: Given, rows: tuple[int, ...] | None) -> bool:
    """Whether a part may have fewer than two values; a batch that is all one part is refused then."""
    if given.weights is not None:
        return True
    if rows is None and len(given.sizes) == 1:
        return False
    # a compiled graph is to serve all sizes, and those of other ranks are not known here
    if given.ranks is not None or torch.compiler.is_compiling():
        return True
    return min(given.sizes) * input.shape[2:].numel() < 2
