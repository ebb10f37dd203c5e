"""Public reports as cases: the situation is built anew, the doctor looks at it, and what it says is scored.

A case is named for its report, as TE-01. Its function returns a report or a list of findings; it is right if
the code expected is found, and right at first sight if that code (or another that the report names) is said
first. A *trap* is a situation that looks wrong and is right: there the doctor must say neither error nor
warning.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

__all__ = ["CASES", "Case", "Outcome", "all_cases", "case", "score", "table", "trap"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A report's situation.

    Attributes:
        report: As TE-01.
        expected: Codes the report names, any of which may be said first; empty for a trap.
        make: Builds it and diagnoses it.
    """

    report: str
    expected: tuple[str, ...]
    make: Callable

    @property
    def name(self):
        return f"{self.report} {self.make.__name__.replace('_', ' ')}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the doctor said: the codes in order, without information for a trap."""

    case: Case
    codes: tuple[str, ...]

    @property
    def is_found(self):
        return not self.codes if not self.case.expected else bool(set(self.case.expected) & set(self.codes))

    @property
    def is_first(self):
        return (
            not self.codes
            if not self.case.expected
            else self.codes[:1] and self.codes[0] in self.case.expected
        )


CASES: list[Case] = []


def case(report, *expected):
    """Register a situation that has a fault."""

    def register(make):
        CASES.append(Case(report, expected, make))
        return make

    return register


def trap(report):
    """Register a situation that only looks wrong."""
    return case(report)


def all_cases():
    """The cases of all modules here."""
    package = importlib.import_module("tests.doctor.cases")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name not in ("case", "__main__") and not info.name.startswith("test_"):
            importlib.import_module(f"{package.__name__}.{info.name}")
    return tuple(CASES)


def score(one):
    """Diagnose a case."""
    result = one.make()
    findings = getattr(result, "findings", result)
    if not one.expected:
        findings = [finding for finding in findings if finding.severity != "info"]
    return Outcome(one, tuple(dict.fromkeys(finding.code for finding in findings)))


def table(outcomes):
    """The score in words."""
    faults = [outcome for outcome in outcomes if outcome.case.expected]
    traps = [outcome for outcome in outcomes if not outcome.case.expected]
    found, first = sum(o.is_found for o in faults), sum(bool(o.is_first) for o in faults)
    quiet = sum(o.is_found for o in traps)
    lines = [
        f"{'' if o.is_found and o.is_first else 'MISSED ' if not o.is_found else 'later  '}"
        f"{o.case.name}: expected {' or '.join(o.case.expected) or 'silence'}, "
        f"said {', '.join(o.codes) or 'nothing'}"
        for o in outcomes
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"{len(outcomes)} cases from {len({o.case.report for o in outcomes})} reports",
            f"found            {found:4}/{len(faults)}  {found / len(faults):.1%}",
            f"named first      {first:4}/{len(faults)}  {first / len(faults):.1%}",
            f"silent on traps  {quiet:4}/{len(traps)}  {quiet / len(traps):.1%}",
        ]
    )
