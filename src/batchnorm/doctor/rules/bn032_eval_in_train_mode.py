"""Evaluation normalizes with the batch: a sample's score depends on its neighbours.

Accuracy then changes with the test batch size and its order, and evaluation may even move the running
statistics of the model it measures.

Found by: scoring a batch as it is, reversed, and its first sample alone, by ``predict_fn`` or after
``eval()``; outputs must agree within 1e-5. And by comparing statistics before and after ``evaluate_fn``.

Severity: error.

Fix: call ``model.eval()`` before evaluation and ``model.train()`` after it.

Mistaken for it: Dropout left on, which differs even for the same batch: then the modes of the layers decide;
few-shot methods and generators that use the batch on purpose: ignore BN032 there.

Reports: TE-04, TE-05, TE-06, TE-11, TE-12, TE-14, SH-02, B1-04, AP-16; traps AP-02, AP-09.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from batchnorm.doctor.batch import rows_of, select
from batchnorm.doctor.observe import Call, Observer
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.doctor.step import scores_in
from batchnorm.records import Finding

EVIDENCE = "F"
RANK = 0
EXPLAINED_BY = ("BN014", "BN019")

TOLERANCE = 1e-5  # of the outputs' largest value, for float32
EVAL = advice("model.eval() before evaluation, model.train() after it")


def check(patient: Patient) -> Iterator[Finding]:
    """Company, then statistics."""
    yield from _company(patient)
    yield from _moved(patient)


def _company(patient: Patient) -> Iterator[Finding]:
    batch = patient.first_batch
    rows = rows_of(batch)
    first, calls, uses_batch = _observed(patient, batch)
    if rows < 2 or not uses_batch:
        return
    orders = {
        "again": list(range(rows)),
        "reversed": list(range(rows))[::-1],
        "alone": [0],
    }
    if first is None:
        message = (
            "Evaluation scores one sample in training mode, which normalizes with the batch: it has none."
        )
        yield found("error", None, message, EVAL)
        return
    if len(first) != rows:
        return
    # Another seed for the same batch: noise of its own then shows.
    outputs = {
        name: _attempt(patient, select(batch, rows, order), seed=int(name == "again"))
        for name, order in orders.items()
    }
    scale = float(first.abs().max()) or 1.0
    again = outputs["again"]
    if again is None or _apart(again, first) > TOLERANCE * scale:
        yield from _by_mode(calls)  # it is not even the same twice: Dropout, or noise of its own
        return
    if (alone := outputs["alone"]) is not None and not len(alone) and not any(c.training for c in calls):
        return  # rows that cannot stand alone, as the nodes of a graph, see each other by design
    apart = {
        name: _apart(other, first[orders[name]]) / scale
        for name in ("reversed", "alone")
        if (other := outputs[name]) is not None and len(other) == len(orders[name])
    }
    if alone is None:
        message = "One sample alone cannot be scored: evaluation normalizes with the batch."
    elif max(apart.values(), default=0.0) > TOLERANCE:
        message = (
            f"A sample's score changes by up to {max(apart.values()):.2g} of the largest score with the "
            "samples beside it: evaluation normalizes with the batch."
        )
    else:
        return
    yield found("error", None, message, EVAL, {f"changed_{name}": value for name, value in apart.items()})


def _by_mode(calls: Sequence[Call]) -> Iterator[Finding]:
    """Where noise hides how scores depend on the batch, the modes tell."""
    layers = dict.fromkeys(call.layer for call in calls if call.training)
    if layers:
        message = (
            f"{len(layers)} layers normalize with the batch in evaluation, which is random besides, as with "
            "Dropout left on: it runs in training mode."
        )
        yield found("error", None, message, EVAL, {"layers": float(len(layers))})


def _moved(patient: Patient) -> Iterator[Finding]:
    evaluate = patient.settings.evaluate_fn
    if evaluate is None:
        return
    assert patient.model is not None
    with patient.lent() as loan:
        loan.as_found()
        before = {name: buffer.clone() for name, buffer in patient.model.named_buffers()}
        evaluate(patient.model)
        moved = [
            name
            for name, buffer in patient.model.named_buffers()
            if name.endswith("running_mean") and not torch.equal(buffer, before[name])
        ]
    for name in moved:
        yield found(
            "error",
            name.rpartition(".")[0],
            "Evaluation moved the running mean: the layer was in training mode and has taken in test data.",
            EVAL,
        )


def _observed(patient: Patient, batch: Any) -> tuple[Tensor | None, Sequence[Call], bool]:
    """Outputs and calls of layers in evaluation, and whether one normalizes with the batch.

    A model may mix samples in other ways too.
    """
    assert patient.model is not None
    with Observer(patient.model, patient.by_name).hooked() as observer:
        outputs = _predict(patient, batch, seed=0)
    layers = [patient.by_name[call.layer] for call in observer.calls]
    modes = [call.training for call in observer.calls]
    uses_batch = bool(observer.strangers) or any(
        mode or layer.mean is None or layer.kind == "foreign"
        for layer, mode in zip(layers, modes, strict=True)
    )
    return outputs, observer.calls, uses_batch


def _attempt(patient: Patient, batch: Any, seed: int) -> Tensor | None:
    """The same; empty where the model refuses these samples, by whatever error."""
    try:
        return _predict(patient, batch, seed)
    except Exception:
        return torch.empty(0)


def _predict(patient: Patient, batch: Any, seed: int) -> Tensor | None:
    """The outputs; None where there is one sample in a layer that needs two."""
    assert patient.model is not None
    predict: Callable[..., object] | None = patient.settings.predict_fn
    with patient.lent() as loan:
        if predict is None:
            loan.predict()
            predict = patient.forward
        else:
            loan.as_found()
        torch.manual_seed(seed)
        try:
            return scores_in(predict(patient.model, batch)).double().clone()
        except (ValueError, RuntimeError) as error:
            if "per channel" not in str(error):  # torch's words
                raise
            return None


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape else float("inf")
