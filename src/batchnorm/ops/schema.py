"""Every operator of the library ``batchnorm``: its schema, its fake kernel, its default kernel.

The default kernels are the plain torch ones of `eager` and `parts`, registered for all devices at once
(CompositeExplicitAutograd). A compiled backend registers its own under its dispatch key and wins
there; nothing above this file changes. Autograd is in `autograd`: an `autograd.Function` over
these ops costs half the overhead of `register_autograd` on small tensors.

Legend: N batch, C channels, M values per channel. ``mean``, ``var`` (biased) are (C,) in the
accumulation dtype: float64 for float64 input, else float32. ``activation`` is a place in
`activations.ACTIVATIONS`, ``sizes`` cuts the batch as `parts` says. ``avg_pool`` above 1: the output is
the averages of windows of that size, for contiguous images of whole windows.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from batchnorm.ops import eager, parts

__all__ = ["COMPOSITES", "LIBRARY", "NAMES", "SCHEMAS", "implement"]

SCHEMAS = (
    "batch_norm_forward(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual,"
    " float eps, int activation, int avg_pool=1) -> (Tensor output, Tensor mean, Tensor var)",
    "batch_norm_forward_update(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual,"
    " Tensor(a!) running_mean, Tensor(b!) running_var, Tensor(c!)? num_batches_tracked,"
    " float eps, int activation, float? momentum, bool skip_nonfinite, int avg_pool=1)"
    " -> (Tensor output, Tensor mean, Tensor var)",
    "batch_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias,"
    " Tensor? residual, Tensor mean, Tensor var, float eps, int activation, int avg_pool=1)"
    " -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias, Tensor grad_residual)",
    "normalize(Tensor input, Tensor mean, Tensor var, Tensor? weight, Tensor? bias,"
    " Tensor? residual, float eps, int activation, int avg_pool=1) -> Tensor",
    "normalize_backward(Tensor grad_output, Tensor input, Tensor mean, Tensor var, Tensor? weight,"
    " Tensor? bias, Tensor? residual, float eps, int activation, int avg_pool=1)"
    " -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias, Tensor grad_residual)",
    "update_running_stats(Tensor(a!) running_mean, Tensor(b!) running_var,"
    " Tensor(c!)? num_batches_tracked, Tensor mean, Tensor var, SymInt count, float? momentum,"
    " bool skip_nonfinite) -> ()",
    "moments(Tensor input, SymInt[] sizes) -> (Tensor count, Tensor mean, Tensor m2)",
    "forward_apply(Tensor input, Tensor mean, Tensor scale, Tensor shift, Tensor? residual,"
    " SymInt[] sizes, int activation) -> Tensor",
    "backward_reduce(Tensor grad_output, Tensor input, Tensor mean, Tensor scale, Tensor shift,"
    " Tensor? residual, SymInt[] sizes, int activation)"
    " -> (Tensor sum_dz, Tensor sum_dz_centred, Tensor grad_residual)",
    "backward_apply(Tensor grad_output, Tensor input, Tensor mean, Tensor scale, Tensor shift,"
    " Tensor slope, Tensor offset, Tensor? residual, SymInt[] sizes, int activation) -> Tensor",
)

# What a Function does, for torch.compile, which takes the backward of a Function for the end of all
# derivatives: an operator without kernels it keeps whole or traces through, and autograd does the rest.
COMPOSITES = (
    "traced_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, float eps,"
    " int activation, int avg_pool, str rung) -> (Tensor output, Tensor mean, Tensor var)",
    "traced_normalize(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor mean, Tensor var,"
    " float eps, int activation, int avg_pool, str rung) -> Tensor",
    "traced_normalize_parts(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor mean,"
    " Tensor var, Tensor? held, Tensor? total, Tensor? r, Tensor? d, SymInt[] sizes, str? group, float eps,"
    " int activation, str rung) -> Tensor",
    "traced_merge(Tensor packed, str group, int channels)"
    " -> (Tensor total, Tensor squares, Tensor mean, Tensor var)",
)

NAMES = tuple(text.split("(")[0] for text in SCHEMAS)

LIBRARY = torch.library.Library("batchnorm", "DEF")  # type: ignore[no-untyped-call]


def implement(name: str, composite: Callable[..., Any]) -> None:
    """Say what one of `COMPOSITES` does; autograd follows it."""
    LIBRARY.impl(name, composite, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]


def _on_one_device(fake: Callable[..., Any]) -> Callable[..., Any]:
    """The fake kernel, for tensors that are all on one device.

    A single tensor on ``meta`` is enough for the dispatcher to choose it, and the output that it makes for an
    input on a real device would be memory that nobody ever writes.
    """

    @functools.wraps(fake)
    def checked(*arguments: Any) -> Any:
        devices = dict.fromkeys(str(value.device) for value in arguments if isinstance(value, Tensor))
        if len(devices) > 1:
            raise RuntimeError(f"batch_norm: tensors expected on one device, got {' and '.join(devices)}")
        return fake(*arguments)

    return checked


def _fake_statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    shape, dtype = (input.shape[1],), eager.accumulation_dtype(input)
    return input.new_empty(shape, dtype=dtype), input.new_empty(shape, dtype=dtype)


def _fake_output(input: Tensor, *_: object) -> Tensor:
    return torch.empty_like(input, memory_format=eager.output_format(input))


def _fake_averages(input: Tensor, avg_pool: int) -> Tensor:
    if avg_pool == 1:
        return _fake_output(input)
    *outer, height, width = input.shape
    return input.new_empty((*outer, height // avg_pool, width // avg_pool))


def _fake_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_averages(input, avg_pool), *_fake_statistics(input)


def _fake_forward_update(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    eps: float,
    activation: int,
    momentum: float | None,
    skip_nonfinite: bool,
    avg_pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_averages(input, avg_pool), *_fake_statistics(input)


def _fake_normalize(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> Tensor:
    return _fake_averages(input, avg_pool)


def _fake_gradients(
    input: Tensor, residual: Tensor | None, activation: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_residual = input.new_empty((0,)) if residual is None or activation == 0 else _fake_output(input)
    return _fake_output(input), *_fake_statistics(input), grad_residual


def _fake_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _fake_gradients(input, residual, activation)


def _fake_normalize_backward(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    avg_pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _fake_gradients(input, residual, activation)


def _fake_update(*_: object) -> None:
    return None


def _fake_moments(input: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    rows, channels = len(sizes), input.shape[1]
    count, mean, m2 = (
        input.new_empty(shape, dtype=torch.float64) for shape in ((rows,), (rows, channels), (rows, channels))
    )
    return count, mean, m2


def _fake_reduce(
    grad_output: Tensor,
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    sizes: Sequence[int],
    activation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _, first, second = _fake_moments(input, sizes)
    return first, second, _fake_gradients(input, residual, activation)[-1]


def _fake_backward_apply(grad_output: Tensor, input: Tensor, *_: object) -> Tensor:
    return _fake_output(input)


_FAKES: dict[str, Callable[..., Any]] = {
    "batch_norm_forward": _fake_forward,
    "batch_norm_forward_update": _fake_forward_update,
    "batch_norm_backward": _fake_backward,
    "normalize": _fake_normalize,
    "normalize_backward": _fake_normalize_backward,
    "update_running_stats": _fake_update,
    "moments": _fake_moments,
    "forward_apply": _fake_output,
    "backward_reduce": _fake_reduce,
    "backward_apply": _fake_backward_apply,
}
_KERNELS = {name: getattr(parts if name in parts.__all__ else eager, name) for name in NAMES}

_COMPLIANT = (torch.Tag.pt2_compliant_tag,)

for _schema in SCHEMAS:
    _name = LIBRARY.define(_schema, tags=_COMPLIANT)  # type: ignore[no-untyped-call]
    LIBRARY.impl(_name, _KERNELS[_name], "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"batchnorm::{_name}", _on_one_device(_FAKES[_name]), lib=LIBRARY)
for _schema in COMPOSITES:
    LIBRARY.define(_schema, tags=_COMPLIANT)  # type: ignore[no-untyped-call]
