"""Run a case through a backend and hold every result to the oracle's, within the derived tolerances."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm import reference
from batchnorm.ops import batch_norm, has_native
from tests.strategies import HALF, Case, Tensors
from tests.tolerances import Tolerances, assert_close

__all__ = [
    "LEAVES",
    "NATIVE",
    "bounds",
    "check",
    "check_format",
    "each_backend",
    "each_of_ours",
    "exact",
    "run",
]

NATIVE = pytest.param(
    "native", marks=pytest.mark.skipif(not has_native("cpu"), reason="the native CPU kernels are not built")
)
each_of_ours = pytest.mark.parametrize("backend", ["eager", NATIVE])
each_backend = pytest.mark.parametrize("backend", ["eager", "torch", NATIVE])

LEAVES = ("input", "weight", "bias", "residual")


def exact(tensor: Tensor) -> NDArray[np.float64]:
    """The values of a tensor as the oracle takes them."""
    return np.asarray(tensor.detach().cpu().double().numpy())


def _exact_or_none(tensor: Tensor | None) -> NDArray[np.float64] | None:
    return None if tensor is None else exact(tensor)


def run(
    case: Case,
    tensors: Tensors,
    backend: str,
    *,
    training: bool,
    function: Callable[..., Tensor] = batch_norm,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward of a case.

    Returns:
        The output, and the gradients by name of their leaf; leaves that are None have none.
    """
    leaves = {name: getattr(tensors, name) for name in LEAVES if getattr(tensors, name) is not None}
    for leaf in leaves.values():
        leaf.requires_grad_()
    output = function(
        tensors.input,
        tensors.running_mean,
        tensors.running_var,
        tensors.weight,
        tensors.bias,
        training,
        eps=case.eps,
        activation=case.activation,
        residual=tensors.residual,
        backend=backend,
    )
    gradients = torch.autograd.grad(output, list(leaves.values()), tensors.grad_output)
    return output.detach(), dict(zip(leaves, gradients, strict=True))


def bounds(case: Case, tensors: Tensors, *, training: bool, composed: bool = False) -> Tolerances:
    """Tolerances of a case's results."""
    x = exact(tensors.input)
    given = exact(tensors.running_mean), exact(tensors.running_var)
    mean, var = reference.batch_stats(x) if training else given
    return Tolerances(
        x,
        mean,
        var,
        case.eps,
        weight=_exact_or_none(tensors.weight),
        bias=_exact_or_none(tensors.bias),
        residual=_exact_or_none(tensors.residual),
        activation=case.activation,
        grad_output=exact(tensors.grad_output),
        accumulator=case.accumulator,
        stored=case.dtype,
        parameters=case.parameters if case.dtype in HALF else case.dtype,
        composed=composed,
        training=training,
    )


def check_format(actual: Tensor, input: Tensor, what: str) -> None:
    """Contiguous, or channels_last where the input is so and not contiguous too."""
    wanted = torch.contiguous_format
    if not input.is_contiguous():
        for rank, last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if input.dim() == rank and input.is_contiguous(memory_format=last):
                wanted = last
    assert actual.is_contiguous(memory_format=wanted), (
        f"{what}: expected {wanted}, got strides {actual.stride()}"
    )


def check(case: Case, backend: str, *, training: bool, function: Callable[..., Tensor] = batch_norm) -> None:
    """Compare output and gradients with the oracle's.

    Args:
        case: What to compute.
        backend: Which backend does.
        training: Use the batch's statistics, else the case's running ones.
        function: `batch_norm`, or a compiled one.

    Raises:
        AssertionError: If a value, shape, dtype or memory format is wrong, or an argument was changed.
    """
    tensors, before = case.tensors(), case.tensors()
    output, gradients = run(case, tensors, backend, training=training, function=function)

    for field in dataclasses.fields(Tensors):
        if training and field.name.startswith("running"):
            continue
        was, now = getattr(before, field.name), getattr(tensors, field.name)
        assert was is now is None or torch.equal(was, now), f"{field.name} was changed"
    for name, values in [("input", output), *gradients.items()]:
        leaf = getattr(before, name)
        assert (values.shape, values.dtype) == (leaf.shape, leaf.dtype), name
    if backend != "torch":
        check_format(output, before.input, "output")
        check_format(gradients["input"], before.input, "grad_input")

    x, grad_output = exact(before.input), exact(before.grad_output)
    options: dict[str, Any] = {
        "weight": _exact_or_none(before.weight),
        "bias": _exact_or_none(before.bias),
        "eps": case.eps,
        "residual": _exact_or_none(before.residual),
        "activation": case.activation,
    }
    if training:
        y = reference.batch_norm_forward(x, **options)
        grads = reference.batch_norm_backward(grad_output, x, **options)
    else:
        given = exact(before.running_mean), exact(before.running_var)
        y = reference.batch_norm_predict(x, *given, **options)
        grads = reference.batch_norm_predict_backward(grad_output, x, *given, **options)
    # torch adds and activates in operations of their own, each of which rounds
    tolerances = bounds(case, before, training=training, composed=backend == "torch")
    assert_close(output, y, tolerances.output, "output")
    for name, gradient in gradients.items():
        result = f"grad_{name}"
        assert_close(gradient, getattr(grads, result), getattr(tolerances, result), result)
