"""What mending changed in the layers, as numbers before and after."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from batchnorm.doctor.layer import plain
from batchnorm.doctor.layers import layers_of_model

__all__ = ["Numbers", "changes", "numbers_of"]

# What a layer holds, by what it is called and the layer's name.
Numbers = Mapping[tuple[str, str], Tensor | float | None]

TENSORS = {
    "running_mean": "mean",
    "running_var": "var",
    "weight": "weight",
    "bias": "bias",
    "num_batches_tracked": "counter",
}


def numbers_of(model: nn.Module) -> Numbers:
    """A copy of the numbers of all batch-norm layers."""
    held: dict[tuple[str, str], Tensor | float | None] = {}
    for layer in layers_of_model(model):
        for key, name in TENSORS.items():
            tensor: Tensor | None = getattr(layer, name)
            held[key, layer.name] = None if tensor is None else tensor.detach().clone()
        held |= {("eps", layer.name): layer.eps, ("momentum", layer.name): layer.momentum}
    return held


def changes(before: Numbers, after: Numbers) -> tuple[str, ...]:
    """A line for each kind of number that changed, the range over all channels and layers that did.

    Example:
        >>> changes({("eps", "0"): 1e-3}, {("eps", "0"): 1e-5})
        ('eps: 0.001 -> 1e-05',)
    """
    moved: dict[str, list[tuple[str, str]]] = {}
    for key in before.keys() | after.keys():
        if not _equal(before.get(key), after.get(key)):
            moved.setdefault(key[0], []).append(key)
    return tuple(
        f"{name}{f' in {len(keys)} layers' if len(keys) > 1 else ''}: "
        f"{_range([before.get(key) for key in keys])} -> {_range([after.get(key) for key in keys])}"
        for name, keys in sorted(moved.items())
    )


def _equal(one: Tensor | float | None, other: Tensor | float | None) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return one is other if isinstance(one, Tensor) or isinstance(other, Tensor) else one == other


def _range(values: list[Tensor | float | None]) -> str:
    held = [value for value in values if value is not None]
    tensors = [value for value in held if isinstance(value, Tensor)]
    numbers = torch.cat(
        [plain(torch.as_tensor(value)).reshape(-1).cpu() for value in held or [torch.empty(0)]]
    )
    if not numbers.numel():
        return "none"
    low, high = float(numbers.min()), float(numbers.max())
    text = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    narrow = {str(t.dtype).removeprefix("torch.") for t in tensors} - {"float32", "float64", "int64"}
    return f"{text} ({', '.join(sorted(narrow))})" if narrow else text
