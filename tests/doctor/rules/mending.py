"""Mend the findings of one rule, in place."""

from batchnorm.doctor.mend import Repair
from batchnorm.doctor.rule import all_rules
from batchnorm.doctor.settings import Settings

__all__ = ["mend"]


def mend(model, report, code, loader=None):
    """Apply the rule's fix to all its findings; what was done."""
    repair = Repair(model, loader, Settings())
    return [all_rules()[code].mend(repair, f) for f in report.findings if f.code == code]
