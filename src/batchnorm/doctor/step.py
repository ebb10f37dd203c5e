"""A training step, watched."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from batchnorm.doctor.observe import Call, Observer
from batchnorm.surgery.equivalence import tensors_in

if TYPE_CHECKING:
    from batchnorm.doctor.patient import Patient

__all__ = ["calls_of_step", "floats_in", "scores_in"]


def calls_of_step(patient: "Patient", batch: Any) -> tuple[Call, ...]:
    """The calls of layers in forward and backward; those before its error if it fails."""
    assert patient.model is not None
    with patient.lent() as loan, torch.enable_grad():
        loan.train()
        with Observer(patient.model, patient.by_name).hooked() as observer:
            with contextlib.suppress(RuntimeError, ValueError, TypeError):
                _run(patient, batch)
            return tuple(observer.calls)


def _run(patient: "Patient", batch: Any) -> None:
    assert patient.model is not None
    if patient.settings.step_fn is not None:
        patient.settings.step_fn(patient.model, batch)
        return
    outputs = list(floats_in(patient.forward(patient.model, batch)))
    total = sum(o.float().sum() for o in outputs if o.requires_grad)
    if isinstance(total, Tensor):
        total.backward()  # type: ignore[no-untyped-call]


def floats_in(value: object) -> Iterator[Tensor]:
    """All floating tensors in nested outputs."""
    return (tensor for tensor in tensors_in(value) if tensor.is_floating_point())


def scores_in(value: object) -> Tensor:
    """The first floating tensor in nested outputs that has samples, as a loss has none; empty without one."""
    return next((tensor for tensor in floats_in(value) if tensor.dim()), torch.empty(0))
