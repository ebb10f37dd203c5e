"""Mend the findings of one rule, in place."""

from batchnorm.doctor.fix import mend as mend_all
from batchnorm.doctor.mend import Repair

__all__ = ["mend"]


def mend(model, report, code, loader=None):
    """Apply the rule's fix to all its findings; what was done."""
    findings = [finding for finding in report.findings if finding.code == code]
    return [one.done for one in mend_all(Repair(model, loader, report.origin.settings), findings, {code})]
