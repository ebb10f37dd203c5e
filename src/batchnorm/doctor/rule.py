"""A rule: one module of `batchnorm.doctor.rules`, found by its file's name.

The module has

- a docstring, which is the rule's page: its first line says what is wrong;
- ``EVIDENCE``: ``S`` (module or graph), ``C`` (checkpoint alone), ``O`` (settings), ``F`` (a forward
  pass), ``T`` (training batches) or ``W`` (a distributed world), the least it needs;
- ``check(patient)``, which yields a `Finding` for each fault, made by `found`;
- ``RANK``, optional: its place among the causes of a gap between training and prediction, lower is
  earlier;
- ``EXPLAINED_BY``, optional: codes of rules whose finding makes this one's superfluous;
- ``explained(patient, finding, cause, left)``, optional: whether such a finding accounts for the size of this
  one, ``left()`` giving the layers' gaps as they would be without the cause; without it, it does;
- ``left(patient)``, optional: of a cause: those gaps, by layer; without it, there would be none in the layers
  in which the cause was found;
- ``confirm(patient, finding)``, optional: what data say to a suspicion;
- ``mend(repair, finding)``, optional: how it is mended, returning what was done in words, with ``FIXES``, the
  kinds of fix that its findings have, and ``MEASURES``, True if it may need data; without it all its fixes
  are `advice`.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from batchnorm.records import Finding, Fix

if TYPE_CHECKING:
    from batchnorm.doctor.gap import Gaps
    from batchnorm.doctor.mend import Repair
    from batchnorm.doctor.patient import Patient

__all__ = ["LAST", "Rule", "advice", "all_rules", "chosen_rules", "consent", "found", "rounded", "safe"]

LAST = 100  # rank of a rule that is no cause of a gap
LEVELS = "SCOFTW"


def safe(text: str) -> Fix:
    """A fix that keeps outputs, which the rule's ``mend`` makes."""
    return Fix("safe", text)


def consent(text: str) -> Fix:
    """A fix that changes numbers, which the rule's ``mend`` makes."""
    return Fix("consent", text)


def advice(text: str) -> Fix:
    """A fix that only a person can make."""
    return Fix("advice", text)


def found(
    severity: str,
    layer: str | None,
    message: str,
    fix: Fix,
    evidence: Mapping[str, float | str] = MappingProxyType({}),
    *,
    suspected: bool = False,
) -> Finding:
    """A rule's finding; the engine adds code and name.

    Args:
        severity: ``error``, ``warn`` or ``info``.
        layer: Its name, or None.
        message: What happened and why it matters.
        fix: What mends it.
        evidence: Numbers, to be rounded, or words.
        suspected: Whether data could settle it, by the rule's ``confirm``.
    """
    state = "suspected" if suspected else "found"
    return Finding("", "", severity, layer, message, rounded(evidence), fix, state)


def rounded(evidence: Mapping[str, float | str]) -> dict[str, float | str]:
    """Numbers to four significant digits, so that findings compare equal between machines."""
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in evidence.items()
    }


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule module, read.

    Attributes:
        code: As ``BN013``.
        name: As ``eps-mismatch``.
        evidence: One letter; see the module.
        rank: Among the causes of a gap.
        explained_by: Codes whose finding makes this one's superfluous.
        page: The docstring.
        module: Where the functions are.
    """

    code: str
    name: str
    evidence: str
    rank: int
    explained_by: tuple[str, ...]
    page: str
    module: ModuleType

    def check(self, patient: "Patient") -> Iterator[Finding]:
        """The rule's findings, with its code and name."""
        for finding in self.module.check(patient):
            assert finding.fix.kind in self.fixes, f"{self.code} declares no fix of kind {finding.fix.kind}"
            yield dataclasses.replace(finding, code=self.code, name=self.name)

    @property
    def explained(self) -> "Callable[[Patient, Finding, Finding, Callable[[], Gaps]], bool]":
        """Whether another rule's finding accounts for the size of this one's."""
        return getattr(self.module, "explained", lambda *_: True)

    @property
    def left(self) -> "Callable[[Patient], Gaps] | None":
        """The gaps that there would be without this cause."""
        return getattr(self.module, "left", None)

    @property
    def confirm(self) -> "Callable[[Patient, Finding], Finding] | None":
        """What data say to a suspicion."""
        return getattr(self.module, "confirm", None)

    @property
    def mend(self) -> "Callable[[Repair, Finding], str] | None":
        """How it is mended."""
        return getattr(self.module, "mend", None)

    @property
    def fixes(self) -> tuple[str, ...]:
        """Kinds of fix that its findings have."""
        return getattr(self.module, "FIXES", ("advice",))

    @property
    def measures(self) -> bool:
        """Whether `mend` may need data, to measure statistics on."""
        return getattr(self.module, "MEASURES", False)


@cache
def all_rules() -> dict[str, Rule]:
    """All rules by code, in the order of evidence, cheapest first."""
    package = importlib.import_module("batchnorm.doctor.rules")
    rules = [
        _read(importlib.import_module(f"{package.__name__}.{info.name}"))
        for info in pkgutil.iter_modules(package.__path__)
        if re.fullmatch(r"bn\d{3}_\w+", info.name)
    ]
    ordered = sorted(rules, key=lambda rule: (LEVELS.index(rule.evidence), rule.code))
    return {rule.code: rule for rule in ordered}


def chosen_rules(only: Iterable[str] | None, ignore: Iterable[str]) -> dict[str, Rule]:
    """The rules to check.

    Raises:
        ValueError: If a code is unknown.
    """
    rules = all_rules()
    chosen = list(rules) if only is None else [code.upper() for code in only]
    ignored = {code.upper() for code in ignore}
    for code in (*chosen, *ignored):
        if code not in rules:
            raise ValueError(f"diagnose: rules expected codes as {min(rules)}, got {code!r}")
    return {code: rule for code, rule in rules.items() if code in chosen and code not in ignored}


def _read(module: ModuleType) -> Rule:
    code, name = module.__name__.rsplit(".", 1)[1].split("_", 1)
    # python -OO leaves docstrings out, and this one is data
    words = module.__doc__ or ast.get_docstring(ast.parse(inspect.getsource(module)))
    assert words is not None
    return Rule(
        code.upper(),
        name.replace("_", "-"),
        module.EVIDENCE,
        getattr(module, "RANK", LAST),
        getattr(module, "EXPLAINED_BY", ()),
        words.strip(),
        module,
    )
