"""Findings as SARIF 2.1.0, which code hosts and editors show.

References:
    OASIS 2020, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

from typing import Any

import batchnorm
from batchnorm.doctor.report import Report
from batchnorm.doctor.rule import all_rules

__all__ = ["sarif"]

LEVELS = {"error": "error", "warn": "warning", "info": "note"}


def sarif(report: Report, target: str) -> dict[str, Any]:
    """The report as a SARIF log of one run.

    A network has no lines, so a finding's place is a logical one: the layer's name within the target.

    Args:
        report: Of a diagnosis.
        target: What was diagnosed.
    """
    rules = [
        {
            "id": rule.code,
            "name": "".join(word.capitalize() for word in rule.name.split("-")),
            "shortDescription": {"text": rule.page.splitlines()[0]},
            "fullDescription": {"text": rule.page},
        }
        for rule in sorted(all_rules().values(), key=lambda rule: rule.code)
    ]
    positions = {rule["id"]: place for place, rule in enumerate(rules)}
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": positions[finding.code],
            "level": LEVELS[finding.severity],
            "message": {"text": f"{finding.message} Fix: {finding.fix.text}."},
            "locations": [{"logicalLocations": [_place(target, finding.layer)]}],
            "properties": {**finding.to_dict()["evidence"], "state": finding.state},
        }
        for finding in report.findings
    ]
    driver = {"name": "batchnorm doctor", "semanticVersion": batchnorm.__version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _place(target: str, layer: str | None) -> dict[str, str]:
    if layer is None:
        return {"fullyQualifiedName": target, "kind": "module"}
    return {"name": layer, "fullyQualifiedName": f"{target}/{layer}", "kind": "member"}
