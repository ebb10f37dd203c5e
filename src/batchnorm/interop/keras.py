"""Keras: ``gamma, beta, moving_mean, moving_variance``, momentum of the old, epsilon 1e-3, channels last."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from batchnorm.interop.layer import BatchNorm, from_numbers, old_weight, to_numbers
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["from_keras", "to_keras"]

_STATISTICS = ("running_mean", "running_var")  # the order of Keras: gamma, beta, moving mean and variance


def from_keras(
    config: Mapping[str, Any], weights: Sequence[ArrayLike], dims: int = 2, *, count: int | None = None
) -> BatchNorm1d | BatchNorm2d | BatchNorm3d:
    """Our layer from a Keras ``BatchNormalization``.

    Args:
        config: ``layer.get_config()``.
        weights: ``layer.get_weights()``: gamma if ``scale``, beta if ``center``, moving mean and variance.
        dims: Spatial dimensions: 0 or 1 for `BatchNorm1d`, 2, 3.
        count: Values per channel in each batch of its training: N · height · width. Keras 3 averages the
            *biased* variances of batches, torch the unbiased ones; given ``count`` the variance is
            turned into torch's. None copies it: predictions are then the same to rounding.

    Returns:
        The layer, in prediction mode. It takes channels at axis 1, Keras by default at the last one:
        ``x.permute(0, 3, 1, 2)`` for images. Its momentum is 1 − that of Keras, which weighs the old.

    Raises:
        ValueError: If the layer normalizes several axes, uses renorm, or the arrays do not fit.

    Example:
        >>> config = {"axis": -1, "momentum": 0.99, "epsilon": 1e-3, "scale": True, "center": False}
        >>> layer = from_keras(config, [[2.0], [5.0], [9.0]], dims=0)
        >>> round(layer.momentum, 6), layer.eps, layer.running_mean.item(), layer.bias
        (0.01, 0.001, 5.0, None)
    """
    axis = config.get("axis", -1)
    if isinstance(axis, list | tuple) and len(axis) != 1:
        raise ValueError(f"from_keras: axis expected one axis, got {axis}")
    if config.get("renorm"):
        raise ValueError("from_keras: renorm expected False, got True")
    names = [*["weight"] * config.get("scale", True), *["bias"] * config.get("center", True), *_STATISTICS]
    if len(weights) != len(names):
        raise ValueError(f"from_keras: weights expected {len(names)} arrays, got {len(weights)}")
    momentum, eps = config.get("momentum", 0.99), config.get("epsilon", 1e-3)
    return from_numbers("from_keras", dims, momentum, eps, dict(zip(names, weights, strict=True)), count)


def to_keras(
    layer: BatchNorm, axis: int = -1, *, count: int | None = None
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Arguments and weights of a Keras ``BatchNormalization`` that predicts the same.

    Args:
        layer: Of torch or ours, with running statistics; an activation is not part of it.
        axis: Of the channels in Keras.
        count: As in `from_keras`: turns the unbiased variance into Keras's.

    Returns:
        ``options`` and ``weights``: ``keras.layers.BatchNormalization(**options)``, and
        ``set_weights(weights)`` once it is built.

    Raises:
        ValueError: If the layer has no running statistics, or momentum None.
    """
    arrays = to_numbers("to_keras", layer, count)
    options = {
        "axis": axis,
        "momentum": old_weight("to_keras", layer),
        "epsilon": layer.eps,
        "scale": "weight" in arrays,
        "center": "bias" in arrays,
    }
    return options, [arrays[name] for name in ("weight", "bias", *_STATISTICS) if name in arrays]
