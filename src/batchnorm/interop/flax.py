"""Flax: ``scale, bias`` and ``mean, var``, momentum of the old, biased variance, channels last."""

from collections.abc import Mapping
from typing import Any

from batchnorm.interop.layer import BatchNorm, from_numbers, old_weight, to_numbers
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["from_flax", "to_flax"]

_NAMES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def from_flax(
    variables: Mapping[str, Mapping[str, Any]],
    dims: int = 2,
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    count: int | None = None,
) -> BatchNorm1d | BatchNorm2d | BatchNorm3d:
    """Our layer from the variables of a Flax ``BatchNorm``.

    Args:
        variables: ``{"params": {"scale", "bias"}, "batch_stats": {"mean", "var"}}`` of the one layer.
        dims: Spatial dimensions: 0 or 1 for `BatchNorm1d`, 2, 3.
        momentum: That of the Flax layer: the weight of the old statistics; ours is 1 − it.
        epsilon: That of the Flax layer.
        count: Values per channel in each batch of its training. Flax averages the *biased* variances of
            batches, torch the unbiased ones; given ``count`` the variance is turned into torch's. None
            copies it: predictions are then the same to rounding.

    Returns:
        The layer, in prediction mode. It takes channels at axis 1, Flax by default at the last one. With
        a shift and no scale its weight is 1 and asks for no gradient.

    Raises:
        ValueError: If statistics are missing, something is there that a batch norm does not have, or the
            arrays do not fit.

    Example:
        >>> variables = {"params": {}, "batch_stats": {"mean": [5.0], "var": [9.0]}}
        >>> layer = from_flax(variables, dims=0, momentum=0.9, count=10)
        >>> layer.momentum, layer.weight, layer.running_var.item()
        (0.1, None, 10.0)
    """
    if not isinstance(variables, Mapping):
        raise ValueError(f"from_flax: variables expected a mapping, got {type(variables).__name__}")
    unknown = set(variables) - {"params", "batch_stats"}
    if unknown:
        raise ValueError(f"from_flax: variables expected params and batch_stats, got {_listed(variables)}")
    params, statistics = variables.get("params") or {}, variables.get("batch_stats") or {}
    for name, collection in (("params", params), ("batch_stats", statistics)):
        if not isinstance(collection, Mapping):
            raise ValueError(f"from_flax: {name} expected a mapping, got {type(collection).__name__}")
    if not set(params) <= {"scale", "bias"}:
        raise ValueError(f"from_flax: params expected scale and bias, got {_listed(params)}")
    if set(statistics) != {"mean", "var"}:
        raise ValueError(f"from_flax: batch_stats expected mean and var, got {_listed(statistics)}")
    return from_numbers("from_flax", dims, momentum, epsilon, {**params, **statistics}, _NAMES, count)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(str, names)) or "nothing"


def to_flax(
    layer: BatchNorm, axis: int = -1, *, count: int | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Arguments and variables of a Flax linen ``BatchNorm`` that predicts the same.

    Args:
        layer: Of torch or ours, with running statistics; an activation is not part of it.
        axis: Of the channels in Flax.
        count: As in `from_flax`: turns the unbiased variance into Flax's, with which it predicts as if it had
            been trained there. None copies it.

    Returns:
        ``options`` and ``variables``:
        ``BatchNorm(use_running_average=True, **options).apply(variables, x)``. A weight that is 1 and asks
        for no gradient, beside a bias, becomes ``use_scale=False``.

    Raises:
        ValueError: If the layer has no running statistics, or momentum None.
    """
    arrays = to_numbers("to_flax", layer, count)
    options = {
        "axis": axis,
        "momentum": old_weight("to_flax", layer),
        "epsilon": layer.eps,
        "use_scale": "weight" in arrays,
        "use_bias": "bias" in arrays,
    }
    theirs = {_NAMES[name]: array for name, array in arrays.items()}
    statistics = {name: theirs.pop(name) for name in ("mean", "var")}
    return options, {"params": theirs, "batch_stats": statistics}
