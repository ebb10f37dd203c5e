"""Batch normalization of weighted values in parts: one meaning for every kind of statistics.

Each part is a batch of its own. With weights w ≥ 0 (a mask is weights of 0 and 1), V1 = Σ w and the
sums over one part and channel,

    mean  = Σ w·x / V1        var = Σ w·(x − mean)² / V1
    x_hat = (x − mean) / √(var + eps)
    z     = weight · (x_hat · r + d) + bias + residual
    y     = activation(z)

r and d are 1 and 0 but in batch renormalization (`renorm`). Seen with the statistics held constant this
is prediction with scale weight · r and shift weight · d + bias, so the functions below are
`batch_norm_predict` and `batch_norm_predict_backward` for each part, plus what the statistics add.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchnorm.reference.batch_norm import Gradients, batch_norm_predict, batch_norm_predict_backward
from batchnorm.reference.channels import (
    Array,
    along_channels,
    as_batch,
    as_parts,
    as_weights,
    channel_sum,
    like,
    per_channel,
    row_of,
)
from batchnorm.reference.moments import normalizing_stats, weighted_moments

__all__ = ["EXCLUDED", "weighted_backward", "weighted_forward"]

EXCLUDED = ("zero", "normalize")

Pair = tuple[ArrayLike, ArrayLike]


def weighted_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    weights: ArrayLike | None = None,
    parts: ArrayLike | None = None,
    correction: Pair | None = None,
    fallback: Pair | None = None,
    excluded: str = "zero",
    residual: ArrayLike | None = None,
    activation: str | None = None,
) -> Array:
    """Training: normalize each part of a batch with its own weighted mean and variance.

    Args:
        x: Input, shape ``(N, C, *spatial)``.
        weight: Scale γ, ``(C,)``; None for 1.
        bias: Shift β, ``(C,)``; None for 0.
        eps: Added to the variance.
        weights: Of each value in the statistics, broadcastable as ``(N, 1 or C, *spatial)``, at least
            0; None for 1.
        parts: The part each sample belongs to, ``(N,)`` integers from 0; None for one part.
        correction: ``r`` and ``d`` of `renorm_correction`, each ``(P, C)``; None for 1 and 0.
        fallback: ``mean`` and ``var``, each ``(P, C)``, for a part and channel with fewer than 2
            values of positive weight; as a rule the running ones.
        excluded: What y is where the weight is 0: ``zero``, whatever stands in ``x`` there, or
            ``normalize``, as everywhere else.
        residual: Added before the activation, shape of ``x``; None for 0.
        activation: One of `activations.ACTIVATIONS`.

    Returns:
        y, shape of ``x``; float64.

    Raises:
        ValueError: If a shape does not fit, a weight is negative, ``excluded`` is unknown, or a part
            and channel has fewer than 2 values of positive weight and there is no ``fallback``.

    Example:
        >>> y = weighted_forward([[1.0], [3.0], [9.0]], eps=0.0, weights=[[1], [1], [0]])
        >>> y.tolist()
        [[-1.0], [1.0], [0.0]]
    """
    x = as_batch(x)
    residual = np.zeros_like(x) if residual is None else like("residual", residual, x)
    y = np.zeros_like(x)
    for part in _split(x, weight, bias, weights, parts, correction, fallback, excluded):
        y_kept = batch_norm_predict(
            part.pick(x),
            part.mean,
            part.var,
            part.scale,
            part.shift,
            eps,
            residual=part.pick(residual),
            activation=activation,
        )
        y[part.rows] = np.where(part.kept, y_kept, 0.0)
    return y


def weighted_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    weights: ArrayLike | None = None,
    parts: ArrayLike | None = None,
    correction: Pair | None = None,
    fallback: Pair | None = None,
    excluded: str = "zero",
    residual: ArrayLike | None = None,
    activation: str | None = None,
) -> Gradients:
    """Gradients of `weighted_forward`; weights, r, d and the fallback are constants.

    As in `batch_norm_backward`, with the share w_j / V1 of a value in the statistics for 1/M:

        ∂mean/∂x_j    = w_j / V1
        ∂invstd/∂x_j  = −w_j / V1 · invstd² · x_hat_j
        ∂x_hat_i/∂x_j = invstd · (δ_ij − w_j / V1 − w_j / V1 · x_hat_i · x_hat_j)

    Let p = weight · r · invstd · grad_z be the gradient that held statistics would give. Then, with
    sums over one part and channel,

        grad_input_j = p_j − w_j / V1 · (Σ p + x_hat_j · Σ p · x_hat)
        grad_weight  = Σ grad_z · (x_hat · r + d)

    An excluded value does not move the statistics: under ``normalize`` its gradient is p, under
    ``zero`` it is 0. The fallback's are constants too: there grad_input = p.

    Args:
        grad_output: ∂loss/∂y, shape of ``x``.
        x: As in the forward, and so are the others.
        weight: As in the forward.
        bias: As in the forward; matters if there is an activation.
        eps: As in the forward.
        weights: As in the forward.
        parts: As in the forward.
        correction: As in the forward.
        fallback: As in the forward.
        excluded: As in the forward.
        residual: As in the forward; matters if there is an activation.
        activation: As in the forward.

    Returns:
        See `Gradients`; those of ``weight`` and ``bias`` are sums over all parts.

    Raises:
        ValueError: As the forward, and if ``grad_output`` is not of the shape of ``x``.

    Example:
        The third value moves nothing, and nothing moves it.

        >>> weighted_backward([[1.0], [7.0], [5.0]], [[1.0], [3.0], [9.0]], weights=[[1], [1], [0]],
        ...                   eps=0.0).grad_input.tolist()
        [[0.0], [0.0], [0.0]]
    """
    x = as_batch(x)
    grad_output = like("grad_output", grad_output, x)
    residual = np.zeros_like(x) if residual is None else like("residual", residual, x)
    grads = Gradients(np.zeros_like(x), np.zeros(x.shape[1]), np.zeros(x.shape[1]), np.zeros_like(x))
    for part in _split(x, weight, bias, weights, parts, correction, fallback, excluded):
        x_kept = part.pick(x)
        held = batch_norm_predict_backward(
            part.pick(grad_output),
            x_kept,
            part.mean,
            part.var,
            part.scale,
            part.shift,
            eps,
            residual=part.pick(residual),
            activation=activation,
        )
        p, x_hat = held.grad_input, batch_norm_predict(x_kept, part.mean, part.var, eps=eps)
        through_mean = part.share * along_channels(channel_sum(p), x)
        through_var = part.share * x_hat * along_channels(channel_sum(p * x_hat), x)
        grads.grad_input[part.rows] = p - through_mean - through_var
        grads.grad_residual[part.rows] = held.grad_residual
        # scale = weight · r and shift = weight · d + bias
        grads.grad_weight[:] += part.r * held.grad_weight + part.d * held.grad_bias
        grads.grad_bias[:] += held.grad_bias
    return grads


class _Part(NamedTuple):
    """One part of a batch: which values, and what they are normalized, scaled and shifted with."""

    rows: NDArray[np.bool_]  # (N,), the samples
    kept: NDArray[np.bool_]  # (N_p, C, *spatial), where y is not set to 0
    share: Array  # (N_p, C, *spatial), w / V1, and 0 where the statistics are the fallback's
    mean: Array  # (C,), and so are the following
    var: Array
    r: Array
    d: Array
    scale: Array
    shift: Array

    def pick(self, values: Array) -> Array:
        """The part's values, 0 for those not kept, so that a NaN there stays out."""
        return np.where(self.kept, values[self.rows], 0.0)


def _split(
    x: Array,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    weights: ArrayLike | None,
    parts: ArrayLike | None,
    correction: Pair | None,
    fallback: Pair | None,
    excluded: str,
) -> Iterator[_Part]:
    if excluded not in EXCLUDED:
        raise ValueError(f"batch_norm: excluded expected one of {', '.join(EXCLUDED)}, got {excluded!r}")
    channels = x.shape[1]
    gamma = np.ones(channels) if weight is None else per_channel("weight", weight, x).ravel()
    beta = np.zeros(channels) if bias is None else per_channel("bias", bias, x).ravel()
    all_weights, numbers = as_weights(weights, x), as_parts(parts, x)
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        w = all_weights[rows]
        moments = weighted_moments(x[rows], w)
        own_fallback = None if fallback is None else row_of("fallback", fallback, number, x)
        mean, var = normalizing_stats(moments, own_fallback)
        # the fallback does not depend on x
        per_weight = np.divide(1.0, moments.weight_sum, out=np.zeros(channels), where=moments.freedom > 0)
        r, d = np.ones(channels), np.zeros(channels)
        if correction is not None:
            r, d = row_of("correction", correction, number, x)
        yield _Part(
            rows=rows,
            kept=(w > 0) | (excluded == "normalize"),
            share=w * along_channels(per_weight, x),
            mean=mean,
            var=var,
            r=r,
            d=d,
            scale=gamma * r,
            shift=gamma * d + beta,
        )
