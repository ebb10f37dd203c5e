"""The engine: cheap evidence first, then data, then what confirms or takes back what."""

from collections.abc import Iterable, Mapping

import torch

from batchnorm.doctor.causes import drop_explained
from batchnorm.doctor.passes import ENOUGH, ModelError
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import Rule
from batchnorm.doctor.unchecked import Unchecked
from batchnorm.records import SEVERITIES, Finding

__all__ = ["examine"]


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
    unchecked = Unchecked()
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
    kept, explained = drop_explained(kept, rules, patient, unchecked)
    if unchecked.raised and not any(f.severity == "error" and f.state != "suspected" for f in kept):
        raise unchecked.raised
    position = {name: place for place, name in enumerate(_order(patient))}

    def place(finding: Finding) -> tuple[int, int, str, int]:
        rank = rules[finding.code].rank
        return SEVERITIES.index(finding.severity), rank, finding.code, position.get(finding.layer or "", -1)

    return tuple(sorted(kept, key=place)), (*back, *explained), unchecked.reasons


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


def _confirm(rule: Rule, patient: Patient, finding: Finding, unchecked: Unchecked) -> Finding:
    if finding.state != "suspected" or rule.confirm is None:
        return finding
    try:
        if not patient.has_enough:
            return finding
    except ModelError as error:
        unchecked.add(rule.code, error)
        return finding
    try:
        return rule.confirm(patient, finding)
    except Exception as error:
        unchecked.add(rule.code, error)
        return finding


def _order(patient: Patient) -> Iterable[str]:
    """Layers in the order of execution, those that do not run last."""
    executed = patient.training.order if patient.is_measured else ()
    return dict.fromkeys((*executed, *patient.by_name))
