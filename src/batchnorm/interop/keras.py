"""Keras: ``gamma, beta, moving_mean, moving_variance``, momentum of the old, epsilon 1e-3, channels last."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from batchnorm.interop.layer import BatchNorm, from_numbers, old_weight, to_numbers
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.statistics import Frozen

__all__ = ["from_keras", "to_keras"]

# in the order of get_weights()
_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_SETTINGS = ("axis", "momentum", "epsilon", "scale", "center")


def from_keras(
    config: Mapping[str, Any],
    weights: Sequence[ArrayLike] | Mapping[str, ArrayLike],
    dims: int = 2,
    *,
    count: int | None = None,
) -> BatchNorm1d | BatchNorm2d | BatchNorm3d:
    """Our layer from a Keras ``BatchNormalization``.

    Args:
        config: ``layer.get_config()``, or the layer's entry in a saved network, which holds that.
        weights: ``layer.get_weights()``: gamma if ``scale``, beta if ``center``, moving mean and variance;
            or these by name, as in a file, where their order is another one.
        dims: Spatial dimensions: 0 or 1 for `BatchNorm1d`, 2, 3.
        count: Values per channel in each batch of its training: N · height · width. Keras 3 averages the
            *biased* variances of batches, torch the unbiased ones; given ``count`` the variance is
            turned into torch's. None copies it: predictions are then the same to rounding. Keras 2
            averages unbiased ones where it fuses, for images and volumes by default: give none there.

    Returns:
        The layer, in prediction mode. It takes channels at axis 1, Keras by default at the last one:
        ``x.permute(0, 3, 1, 2)`` for images. Its momentum is 1 − that of Keras, which weighs the old.
        With ``scale`` False and ``center`` True its weight is 1 and asks for no gradient; with
        ``trainable`` False its ``stats`` are ``Frozen(affine=True)``.

    Raises:
        ValueError: If ``config`` is not such a layer's, the layer normalizes several axes or uses renorm, or
            the arrays do not fit.

    Example:
        >>> config = {"axis": -1, "momentum": 0.99, "epsilon": 1e-3, "scale": True, "center": False}
        >>> layer = from_keras(config, [[2.0], [5.0], [9.0]], dims=0)
        >>> layer.momentum, layer.eps, layer.running_mean.item(), layer.bias
        (0.01, 0.001, 5.0, None)
    """
    config = _settings(config)
    axis = config["axis"]
    if not isinstance(axis, int) and len(axis) != 1:
        raise ValueError(f"from_keras: axis expected one axis, got {axis}")
    if config.get("renorm"):
        raise ValueError("from_keras: renorm expected False, got True")
    absent = {name for name, setting in (("gamma", "scale"), ("beta", "center")) if not config[setting]}
    names = [name for name in _NAMES.values() if name not in absent]
    if isinstance(weights, Mapping):
        if set(weights) != set(names):
            raise ValueError(f"from_keras: weights expected {', '.join(names)}, got {', '.join(weights)}")
    elif len(weights) != len(names):
        raise ValueError(f"from_keras: weights expected {len(names)} arrays, got {len(weights)}")
    else:
        weights = dict(zip(names, weights, strict=True))
    frozen = config.get("trainable") is False
    return from_numbers(
        "from_keras", dims, config["momentum"], config["epsilon"], weights, _NAMES, count, frozen
    )


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(config, Mapping):
        raise ValueError(f"from_keras: config expected layer.get_config(), got {type(config).__name__}")
    kind = config.get("class_name", "BatchNormalization")
    if not kind.endswith("BatchNormalization"):
        raise ValueError(f"from_keras: config expected a BatchNormalization's, got that of {kind}")
    inner: Mapping[str, Any] = config.get("config", config)
    missing = [setting for setting in _SETTINGS if setting not in inner]
    if missing:
        raise ValueError(
            f"from_keras: config expected {', '.join(_SETTINGS)}, got no {', no '.join(missing)}"
        )
    return inner


def to_keras(
    layer: BatchNorm, axis: int = -1, *, count: int | None = None
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Arguments and weights of a Keras ``BatchNormalization`` that predicts the same.

    Args:
        layer: Of torch or ours, with running statistics; an activation is not part of it.
        axis: Of the channels in Keras.
        count: As in `from_keras`: turns the unbiased variance into Keras's, with which it predicts as if it
            had been trained there. None copies it.

    Returns:
        ``options`` and ``weights``: ``keras.layers.BatchNormalization(**options)``, and
        ``set_weights(weights)`` once it is built. A weight that is 1 and asks for no gradient, beside a
        bias, becomes ``scale=False``; ``Frozen(affine=True)`` becomes ``trainable=False``.

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
    if getattr(layer, "stats", None) == Frozen(affine=True):
        options["trainable"] = False
    return options, [arrays[name] for name in _NAMES if name in arrays]
