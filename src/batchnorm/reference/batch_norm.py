"""Batch normalization, forward and backward by hand.

One formula serves dense layers ``(N, C)``, sequences ``(N, C, L)``, images ``(N, C, H, W)`` and
volumes ``(N, C, D, H, W)``, because each channel is on its own. For the M = N · prod(spatial) values
x of one channel,

    x_hat = (x − mean) / √(var + eps)
    z     = weight · x_hat + bias + residual
    y     = activation(z)

and training differs from prediction only in where ``mean`` and ``var`` come from: from the batch
itself, or from outside. So each training function below is its prediction twin plus the statistics.

References:
    Ioffe & Szegedy 2015, arXiv:1502.03167: Algorithm 1 (training), Algorithm 2 (prediction),
    section 3 (backward, in another but equal form).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from batchnorm.reference.activations import activate, activation_derivative
from batchnorm.reference.channels import (
    Array,
    along_channels,
    as_batch,
    as_float64,
    channel_mean,
    channel_sum,
    like,
    per_channel,
    training_batch,
    values_per_channel,
)

__all__ = [
    "Gradients",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_predict",
    "batch_norm_predict_backward",
    "batch_stats",
    "update_running_stats",
]


class Gradients(NamedTuple):
    """Gradients of a scalar loss with respect to everything that went in."""

    grad_input: Array  # shape of x
    grad_weight: Array  # (C,)
    grad_bias: Array  # (C,)
    grad_residual: Array  # shape of x


def batch_stats(x: ArrayLike) -> tuple[Array, Array]:
    """Mean and biased variance of each channel of a batch.

    mean = 1/M · Σ x,  var = 1/M · Σ (x − mean)²

    Args:
        x: Input, shape ``(N, C, *spatial)``.

    Returns:
        ``mean`` and ``var``, each ``(C,)``; ``var`` divides by M, not M − 1.

    Raises:
        ValueError: If ``x`` has fewer than 2 dimensions, or no value at all in a channel.

    Numerics:
        Two passes. The one-pass form E[x²] − E[x]² loses all digits when mean² ≫ var.

    Example:
        >>> mean, var = batch_stats([[1.0, 5.0], [3.0, 5.0]])
        >>> mean, var
        (array([2., 5.]), array([1., 0.]))
    """
    x = as_batch(x)
    if values_per_channel(x) == 0:
        raise ValueError(f"batch_norm: x expected at least 1 value per channel, got shape {x.shape}")
    mean = channel_mean(x)
    var = channel_mean((x - along_channels(mean, x)) ** 2)
    return mean, var


def batch_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
) -> Array:
    """Training: normalize a batch with its own mean and variance.

    Args:
        x: Input, shape ``(N, C, *spatial)``, at least 2 values per channel.
        weight: Scale γ, ``(C,)``; None for 1.
        bias: Shift β, ``(C,)``; None for 0.
        eps: Added to the variance, so that a constant channel gives ``bias`` and not 0/0.
        residual: Added before the activation, shape of ``x``; None for 0.
        activation: One of `activations.ACTIVATIONS`.

    Returns:
        y, shape of ``x``; float64.

    Raises:
        ValueError: If there is one value per channel (it would always become ``bias``, whatever it
            is), a shape does not fit, or ``var + eps`` is not positive.

    Example:
        >>> batch_norm_forward([[1.0], [3.0]], weight=[10.0], bias=[5.0], eps=0.0)
        array([[-5.],
               [15.]])
    """
    mean, var = batch_stats(training_batch(x))
    return batch_norm_predict(x, mean, var, weight, bias, eps, residual=residual, activation=activation)


def batch_norm_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
) -> Gradients:
    """Gradients of `batch_norm_forward`: the statistics depend on ``x`` too.

    With invstd = 1/√(var + eps), the value x_j of a channel moves the statistics by

        ∂mean/∂x_j   = 1/M
        ∂var/∂x_j    = 2/M · (x_j − mean)            since Σ (x_i − mean) = 0
        ∂invstd/∂x_j = −½ · invstd³ · ∂var/∂x_j      = −1/M · invstd² · x_hat_j

    and so every other normalized value of the channel by

        ∂x_hat_i/∂x_j = invstd · (δ_ij − 1/M) + (x_i − mean) · ∂invstd/∂x_j
                      = invstd · (δ_ij − 1/M − 1/M · x_hat_i · x_hat_j).

    Let p = weight · invstd · grad_z be the gradient that held statistics would give
    (`batch_norm_predict_backward`). Summing over i,

        grad_input = p − mean(p) − x_hat · mean(p · x_hat).

    Normalizing forgets a channel's level and spread, so the gradient loses its part along each: its
    mean, and its component along x_hat.

    Args:
        grad_output: ∂loss/∂y, shape of ``x``.
        x: As in the forward, and so are the others.
        weight: As in the forward.
        bias: As in the forward; matters if there is an activation.
        eps: As in the forward.
        residual: As in the forward; matters if there is an activation.
        activation: As in the forward.

    Returns:
        See `Gradients`; those of ``weight``, ``bias`` and ``residual`` also where they were None.

    Raises:
        ValueError: As the forward, and if ``grad_output`` is not of the shape of ``x``.

    Example:
        Two values per channel always become −1 and 1: nothing is left to learn from them.

        >>> batch_norm_backward([[1.0], [7.0]], [[1.0], [3.0]], eps=0.0).grad_input
        array([[0.],
               [0.]])
    """
    x = training_batch(x)
    mean, var = batch_stats(x)
    held = batch_norm_predict_backward(
        grad_output, x, mean, var, weight, bias, eps, residual=residual, activation=activation
    )
    p, x_hat = held.grad_input, _normalized(x, mean, var, eps)
    through_mean = along_channels(channel_mean(p), x)
    through_var = x_hat * along_channels(channel_mean(p * x_hat), x)
    return held._replace(grad_input=p - through_mean - through_var)


def update_running_stats(
    running_mean: ArrayLike,
    running_var: ArrayLike,
    num_batches_tracked: int,
    mean: ArrayLike,
    var: ArrayLike,
    count: int,
    momentum: float | None = 0.1,
) -> tuple[Array, Array, int]:
    """Move the running statistics towards those of one more batch.

    running = (1 − momentum) · running + momentum · batch

    The batch's variance counts as M/(M − 1) · var, the unbiased estimate of the population's: that is
    what prediction needs, while the batch itself is normalized with the biased one.

    Args:
        running_mean: ``(C,)``.
        running_var: ``(C,)``.
        num_batches_tracked: Batches before this one.
        mean: The batch's, from `batch_stats`.
        var: The batch's biased variance, from `batch_stats`.
        count: M, the batch's values per channel.
        momentum: Weight of the *new* batch; None for 1 / (batches so far), which makes the running
            statistics the plain mean over all batches.

    Returns:
        New ``running_mean``, ``running_var`` and ``num_batches_tracked``.

    Raises:
        ValueError: If ``count`` is below 2 (one value has no unbiased variance), or a shape does not fit.

    References:
        Ioffe & Szegedy 2015, Algorithm 2, step 10, for M/(M − 1).

    Example:
        >>> update_running_stats([0.0], [1.0], 0, [2.0], [1.0], count=2)
        (array([0.2]), array([1.1]), 1)
    """
    if count < 2:
        raise ValueError(f"batch_norm: count expected at least 2 values per channel, got {count}")
    running_mean = as_float64("running_mean", running_mean)
    running_var = like("running_var", running_var, running_mean, "running_mean")
    mean = like("mean", mean, running_mean, "running_mean")
    var = like("var", var, running_mean, "running_mean")
    # the counter may be an array or a tensor: it is read, not moved in place
    count, num_batches_tracked = int(count), int(num_batches_tracked) + 1
    new = 1 / num_batches_tracked if momentum is None else momentum
    var_unbiased = var * count / (count - 1)
    running_mean = (1 - new) * running_mean + new * mean
    running_var = (1 - new) * running_var + new * var_unbiased
    return running_mean, running_var, num_batches_tracked


def batch_norm_predict(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
) -> Array:
    """Prediction: normalize with statistics that do not depend on ``x``.

    Args:
        x: Input, shape ``(N, C, *spatial)``; a single value per channel is fine.
        mean: ``(C,)``; in a trained layer the running mean.
        var: ``(C,)``; in a trained layer the running variance.
        weight: Scale γ, ``(C,)``; None for 1.
        bias: Shift β, ``(C,)``; None for 0.
        eps: Added to the variance.
        residual: Added before the activation, shape of ``x``; None for 0.
        activation: One of `activations.ACTIVATIONS`.

    Returns:
        y, shape of ``x``; float64.

    Raises:
        ValueError: If a shape does not fit or ``var + eps`` is not positive.

    Example:
        >>> batch_norm_predict([[6.0]], mean=[2.0], var=[4.0], eps=0.0)
        array([[2.]])
    """
    x = as_batch(x)
    x_hat = _normalized(x, mean, var, eps)
    return activate(_pre_activation(x_hat, weight, bias, residual), activation)


def batch_norm_predict_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    activation: str | None = None,
) -> Gradients:
    """Gradients of `batch_norm_predict`: the chain rule, the statistics being constants.

        grad_z        = grad_output · activation′(z)
        grad_residual = grad_z
        grad_bias     = Σ grad_z                       over the M values of a channel
        grad_weight   = Σ grad_z · x_hat
        grad_input    = grad_z · weight / √(var + eps)

    Args:
        grad_output: ∂loss/∂y, shape of ``x``.
        x: As in the forward, and so are the others.
        mean: As in the forward.
        var: As in the forward.
        weight: As in the forward.
        bias: As in the forward; matters if there is an activation.
        eps: As in the forward.
        residual: As in the forward; matters if there is an activation.
        activation: As in the forward.

    Returns:
        See `Gradients`; those of ``weight``, ``bias`` and ``residual`` also where they were None.

    Raises:
        ValueError: As the forward, and if ``grad_output`` is not of the shape of ``x``.

    Example:
        >>> batch_norm_predict_backward([[1.0]], [[6.0]], [2.0], [4.0], eps=0.0)
        Gradients(grad_input=array([[0.5]]), grad_weight=array([2.]), grad_bias=array([1.]), \
grad_residual=array([[1.]]))
    """
    x = as_batch(x)
    x_hat = _normalized(x, mean, var, eps)
    z = _pre_activation(x_hat, weight, bias, residual)
    grad_z = like("grad_output", grad_output, x) * activation_derivative(z, activation)
    return Gradients(
        grad_input=grad_z * _scale(weight, x) / np.sqrt(per_channel("var", var, x) + eps),
        grad_weight=channel_sum(grad_z * x_hat),
        grad_bias=channel_sum(grad_z),
        grad_residual=grad_z,
    )


def _normalized(x: Array, mean: ArrayLike, var: ArrayLike, eps: float) -> Array:
    mean, var = per_channel("mean", mean, x), per_channel("var", var, x)
    # a NaN variance comes from the data and goes on, as in torch; a NaN eps is refused
    lowest = np.nanmin(var, initial=np.inf)
    if not lowest + eps > 0:
        raise ValueError(f"batch_norm: var expected var + eps above 0, got {lowest} + {eps}")
    return (x - mean) / np.sqrt(var + eps)


def _pre_activation(
    x_hat: Array, weight: ArrayLike | None, bias: ArrayLike | None, residual: ArrayLike | None
) -> Array:
    z = _scale(weight, x_hat) * x_hat
    if bias is not None:
        z = z + per_channel("bias", bias, x_hat)
    if residual is not None:
        z = z + like("residual", residual, x_hat)
    return z


def _scale(weight: ArrayLike | None, x: Array) -> Array:
    return np.ones(()) if weight is None else per_channel("weight", weight, x)
