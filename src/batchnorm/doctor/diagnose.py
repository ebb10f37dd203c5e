"""The engine: cheap evidence first, then data, then what confirms or takes back what."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.doctor.explain import explain
from batchnorm.doctor.exported import exported_norms, is_exported, state_of
from batchnorm.doctor.judge import INFO_RATIO, withdrawn
from batchnorm.doctor.layer import plain
from batchnorm.doctor.passes import ENOUGH, DataError, ModelError
from batchnorm.doctor.patient import Patient, UnavailableError
from batchnorm.doctor.report import LayerGap, Origin, Report
from batchnorm.doctor.rule import Rule, chosen_rules
from batchnorm.doctor.settings import Settings, as_one
from batchnorm.records import SEVERITIES, Finding, LayerRecord, error_line

__all__ = ["diagnose", "examine"]

LONG = 160  # characters of an error


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
        _unseen(patient),
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
        the reason, and the others are. Where the model raises on the data, that is the reason if an error
        stands without data.

    Raises:
        DataError: If the data do not fit the model.
    """
    unchecked = _Unchecked()
    findings: list[Finding] = []
    for code, rule in rules.items():
        try:
            reason = _lacking(rule, patient)
        except ModelError as error:
            unchecked.add(code, error)
            continue
        if reason:
            unchecked.reasons[code] = reason
            continue
        try:
            findings += rule.check(patient)
        except Exception as error:  # of one rule, whatever it is, which must not hide what the others find
            unchecked.add(code, error)
    findings = [_confirm(rules[finding.code], patient, finding, unchecked) for finding in findings]
    kept = [finding for finding in findings if finding.state != "withdrawn"]
    back = [finding for finding in findings if finding.state == "withdrawn"]
    kept, explained = _drop_explained(kept, rules, patient, unchecked)
    if unchecked.raised and not any(f.severity == "error" and f.state != "suspected" for f in kept):
        raise unchecked.raised
    position = {name: place for place, name in enumerate(_order(patient))}

    def place(finding: Finding) -> tuple[int, int, str, int]:
        rank = rules[finding.code].rank
        return SEVERITIES.index(finding.severity), rank, finding.code, position.get(finding.layer or "", -1)

    return tuple(sorted(kept, key=place)), (*back, *explained), unchecked.reasons


class _Unchecked:
    """Rules that could not be checked.

    Attributes:
        reasons: Why, by code.
        raised: The first error of the model itself.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.raised: ModelError | None = None

    def add(self, code: str, error: Exception) -> None:
        """Note why a rule is not checked that raised this."""
        if isinstance(error, ModelError):
            self.raised = self.raised or error
            self.reasons[code] = f"the model raised {_short(error.__cause__ or error)}"
        elif isinstance(error, DataError):
            raise error
        else:
            self.reasons[code] = str(error) if isinstance(error, UnavailableError) else _short(error)


def _short(error: BaseException) -> str:
    return textwrap.shorten(error_line(error), LONG, placeholder=" ...")


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


def _confirm(rule: Rule, patient: Patient, finding: Finding, unchecked: _Unchecked) -> Finding:
    if finding.state != "suspected" or rule.confirm is None:
        return finding
    try:
        if not patient.has_data or not patient.training.has_enough():
            return finding
    except ModelError as error:
        unchecked.add(rule.code, error)
        return finding
    try:
        return rule.confirm(patient, finding)
    except UnavailableError:
        return finding
    except Exception as error:
        unchecked.add(rule.code, error)
        return finding


def _drop_explained(
    findings: list[Finding], rules: Mapping[str, Rule], patient: Patient, unchecked: _Unchecked
) -> tuple[list[Finding], list[Finding]]:
    roots: dict[int, Finding | None] = {}

    def explains(cause: Finding, finding: Finding) -> bool:
        try:
            return rules[finding.code].explained(patient, finding, cause)
        except Exception as error:
            unchecked.add(finding.code, error)
            return False

    def root(finding: Finding) -> Finding | None:
        """What explains it, by way of others too, and is itself not explained."""
        if id(finding) not in roots:
            roots[id(finding)] = None
            candidates = (other for other in findings if _may_explain(other, finding, rules))
            causes = (root(other) or other for other in candidates if explains(other, finding))
            roots[id(finding)] = next((cause for cause in causes if explains(cause, finding)), None)
        return roots[id(finding)]

    kept = [finding for finding in findings if root(finding) is None]
    causes = ((finding, root(finding)) for finding in findings)
    return kept, [withdrawn(finding, f"explained by {cause.code}") for finding, cause in causes if cause]


def _may_explain(cause: Finding, finding: Finding, rules: Mapping[str, Rule]) -> bool:
    """Whether a finding is of a rule, a gravity and a layer to make another superfluous."""
    return (
        cause.code in rules[finding.code].explained_by
        and (cause.severity != "info" or (finding.severity == "info" and cause.state == "confirmed"))
        and (cause.layer is None or finding.layer in (None, cause.layer))
    )


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
