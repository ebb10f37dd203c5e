"""`diagnose`: what is given, examined, and what the report tells of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.doctor.examine import examine
from batchnorm.doctor.explain import explain
from batchnorm.doctor.exported import exported_norms, is_exported, state_of
from batchnorm.doctor.gap import INFO_RATIO
from batchnorm.doctor.layer import plain
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.report import LayerGap, Origin, Report
from batchnorm.doctor.rule import chosen_rules
from batchnorm.doctor.settings import Settings, as_one
from batchnorm.records import LayerRecord
from batchnorm.surgery.feed import expect_batches

__all__ = ["diagnose"]


def diagnose(
    model: nn.Module | Mapping[str, Tensor] | torch.export.ExportedProgram | Any,
    loader: Iterable[Any] | None = None,
    *,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    rules: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    batches: int = 20,
    **settings: Any,
) -> Report:
    """Find batch-normalization faults, prove them, and say what mends them.

    The model is afterwards what it was, to the bit: parameters, buffers, modes, momentum, hooks,
    gradients and random state, also after an error or Ctrl-C. No other thread may use it meanwhile;
    give it a deep copy.

    In a world of `torch.distributed` every process makes the call, each with as many batches: BN043 and BN045
    ask all of them, and so does a `Synced` layer in a forward pass. One process alone, without such layers,
    ignores the two.

    Args:
        model: A model, a state dict alone, or an exported program: a ScriptModule, an
            ``ExportedProgram`` or an ONNX ``ModelProto``.
        loader: Training data as in training, shuffled and augmented; 8 batches or more, 20 are looked
            at. Without data faults that only data show are not looked for, and some stay suspicions.
        optimizer: Of the training; a list if there are several.
        rules: Codes to check, as ``BN013``; None for all.
        ignore: Codes not to check.
        batches: How many training batches to look at.
        settings: The fields of `Settings`, each of which lets more rules be checked.

    Returns:
        The findings, gravest first, with what was not looked at.

    Raises:
        ValueError: If an argument is out of range, the model has tensors without values, the loader is
            empty, or the model raises on its batches and no error was found that needs no data.
        TypeError: If a setting is unknown.

    Example:
        >>> layer = nn.BatchNorm1d(2, eps=1e-3)
        >>> report = diagnose(layer, source_eps=1e-5)
        >>> [(finding.code, finding.severity) for finding in report.findings]
        [('BN013', 'info')]
    """
    if batches < 1:
        raise ValueError(f"diagnose: batches expected 1 or more, got {batches}")
    circumstances = Settings(optimizer=as_one(optimizer), **settings)
    patient = _patient(model, loader, circumstances, batches)
    chosen = chosen_rules(rules, ignore)
    kept, back, skipped = examine(patient, chosen)
    layers = _gaps(patient)

    def again(model: nn.Module, loader: Iterable[Any] | None, **changed: Any) -> Report:
        # Another model's parameters are not in the optimizer.
        return diagnose(model, loader, rules=chosen, batches=batches, **{**settings, **changed})

    return Report(
        kept,
        back,
        skipped,
        layers,
        explain(patient, kept, layers),
        len(patient.training.batches) if patient.is_measured else 0,
        max(len(patient.layers), len(patient.exported)),
        _unseen(patient),
        tuple(_channels(patient, layer.layer) for layer in layers),
        Origin(patient.loader, circumstances, again),
    )


def _patient(model: object, loader: Iterable[Any] | None, settings: Settings, batches: int) -> Patient:
    if loader is not None:
        expect_batches("diagnose", loader)
    if is_exported(model):
        return Patient(None, state_of(model), None, settings, batches, exported_norms(model))
    if isinstance(model, nn.Module):
        _expect_values({**dict(model.named_parameters()), **dict(model.named_buffers())})
        return Patient(model, None, loader, settings, batches)
    if isinstance(model, Mapping):
        _expect_values(model)
        return Patient(None, model, None, settings, batches)
    raise ValueError(
        f"diagnose: model expected a module, a state dict or an exported program, got {type(model).__name__}"
    )


def _expect_values(tensors: Mapping[str, object]) -> None:
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise ValueError(f"diagnose: model expected tensors with values, got {name} on the meta device")


def _gaps(patient: Patient) -> tuple[LayerGap, ...]:
    if not patient.is_measured or not patient.training.has_enough():
        return ()
    own = patient.gaps
    suspicious = any(gap.reaches(INFO_RATIO) for gap in own.values()) or "prediction" in vars(patient)
    predicted = patient.prediction_gaps if suspicious else {}
    return tuple(
        LayerGap(
            name,
            own[name].ratio,
            predicted[name].ratio if name in predicted else math.nan,
            own[name].size,
            own[name].worst,
        )
        for name in patient.training.order
        if name in own
    )


def _unseen(patient: Patient) -> dict[str, str]:
    """Modules whose calls of batch norms no rule saw that looks at the graph, and why."""
    if patient.model is None or not patient.layers or "graph" not in vars(patient):
        return {}
    if patient.lazy is not None:
        return {"": "it has lazy parameters"}
    names = ("",) if patient.graph is None else patient.graph.unseen
    return dict.fromkeys(names, "its code cannot be traced")


def _channels(patient: Patient, name: str) -> LayerRecord:
    layer, (mean, var) = patient.by_name[name], patient.training.series[name].pooled()
    assert layer.mean is not None
    assert layer.var is not None
    kept = {
        "running_mean": layer.mean,
        "running_var": layer.var,
        "population_mean": mean,
        "population_var": var,
    }
    # A diagnosis has one arm and no epochs, and takes no quantiles.
    return LayerRecord("batch", 0, 0, name, (), **{key: tuple(plain(v).tolist()) for key, v in kept.items()})
