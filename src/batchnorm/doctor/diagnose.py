"""The engine: cheap evidence first, then data, then what confirms or takes back what."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.doctor.explain import explain
from batchnorm.doctor.exported import exported_norms, is_exported, state_of
from batchnorm.doctor.judge import INFO_RATIO, withdrawn
from batchnorm.doctor.layer import plain
from batchnorm.doctor.passes import ENOUGH, DataError
from batchnorm.doctor.patient import Patient, UnavailableError
from batchnorm.doctor.report import LayerGap, Origin, Report
from batchnorm.doctor.rule import Rule, chosen_rules
from batchnorm.doctor.settings import Settings, as_one
from batchnorm.records import SEVERITIES, Finding, LayerRecord, error_line

__all__ = ["diagnose", "examine"]


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
    gradients and random state, also after an error or Ctrl-C.

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
            empty or does not fit the model.
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

    def again(model: nn.Module) -> Report:
        # Another model's parameters are not in the optimizer.
        return diagnose(model, patient.loader, rules=chosen, batches=batches, **settings)

    return Report(
        kept,
        back,
        skipped,
        layers,
        explain(patient, kept, layers),
        len(patient.training.batches) if _measured(patient) else 0,
        max(len(patient.layers), len(patient.exported)),
        tuple(_channels(patient, layer.layer) for layer in layers),
        Origin(patient.loader, circumstances, again),
    )


def examine(
    patient: Patient, rules: Mapping[str, Rule]
) -> tuple[tuple[Finding, ...], tuple[Finding, ...], dict[str, str]]:
    """Check rules, confirm or withdraw what is suspected, drop what another finding explains.

    Args:
        patient: Whom.
        rules: Which, by code, cheapest evidence first.

    Returns:
        The findings that stand, gravest first and of equal ones the earliest cause first; those that were
        taken back; and why rules were not checked, by code. A rule that fails is not checked, its error is
        the reason, and the others are.

    Raises:
        DataError: If the data do not fit the model.
    """
    skipped: dict[str, str] = {}
    findings: list[Finding] = []
    for code, rule in rules.items():
        if reason := _lacking(rule, patient):
            skipped[code] = reason
            continue
        try:
            findings += rule.check(patient)
        except Exception as error:  # of one rule, whatever it is, which must not hide what the others find
            skipped[code] = _why(error)
    findings = [_confirm(rules[finding.code], patient, finding, skipped) for finding in findings]
    kept = [finding for finding in findings if finding.state != "withdrawn"]
    back = [finding for finding in findings if finding.state == "withdrawn"]
    kept, explained = _drop_explained(kept, rules)
    position = {name: place for place, name in enumerate(_order(patient))}

    def place(finding: Finding) -> tuple[int, int, str, int]:
        rank = rules[finding.code].rank
        return SEVERITIES.index(finding.severity), rank, finding.code, position.get(finding.layer or "", -1)

    return tuple(sorted(kept, key=place)), (*back, *explained), skipped


def _patient(model: object, loader: Iterable[Any] | None, settings: Settings, batches: int) -> Patient:
    if loader is not None and not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise ValueError(f"diagnose: loader expected an iterable of batches, got {type(loader).__name__}")
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


def _lacking(rule: Rule, patient: Patient) -> str:
    """Why a rule cannot be checked; empty if it can."""
    if rule.evidence in "SFT" and patient.model is None:
        return "needs the model's code"
    if rule.evidence in "FT" and patient.loader is None:
        return "needs data"
    if rule.evidence == "T" and not patient.training.has_enough():
        return f"needs {ENOUGH} batches or more, got {len(patient.training.batches)}"
    if rule.evidence == "W" and not _in_world():
        return "needs a distributed world of two or more"
    return ""


def _in_world() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _measured(patient: Patient) -> bool:
    return patient.has_data and "training" in vars(patient)


def _order(patient: Patient) -> Iterable[str]:
    """Layers in the order of execution, those that do not run last."""
    executed = patient.training.order if _measured(patient) else ()
    return dict.fromkeys((*executed, *patient.by_name))


def _confirm(rule: Rule, patient: Patient, finding: Finding, skipped: dict[str, str]) -> Finding:
    if finding.state != "suspected" or rule.confirm is None:
        return finding
    if not patient.has_data or not patient.training.has_enough():
        return finding
    try:
        return rule.confirm(patient, finding)
    except UnavailableError:
        return finding
    except Exception as error:
        skipped[rule.code] = _why(error)
        return finding


def _why(error: Exception) -> str:
    """Why a rule is not checked that raised this."""
    if isinstance(error, DataError):
        raise error
    return str(error) if isinstance(error, UnavailableError) else error_line(error)


def _drop_explained(
    findings: list[Finding], rules: Mapping[str, Rule]
) -> tuple[list[Finding], list[Finding]]:
    kept, dropped = [], []
    for finding in findings:
        causes = [
            other
            for other in findings
            if other.code in rules[finding.code].explained_by
            and (other.severity != "info" or (finding.severity == "info" and other.state == "confirmed"))
            and (other.layer is None or finding.layer in (None, other.layer))
        ]
        if causes:
            dropped.append(withdrawn(finding, f"explained by {causes[0].code}"))
        else:
            kept.append(finding)
    return kept, dropped


def _gaps(patient: Patient) -> tuple[LayerGap, ...]:
    if not _measured(patient) or not patient.training.has_enough():
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
