"""A report and what was mended, in words: what the terminal shows and ``print`` gives."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from batchnorm.records import SEVERITIES, Finding, some_of

if TYPE_CHECKING:
    from batchnorm.doctor.fix import FixReport
    from batchnorm.doctor.report import Report

__all__ = ["fixes_in_words", "report_in_words"]

NAMED = 4  # layers, or values of evidence, in a line
SHOWN = 3  # statements of one code, where its layers have numbers of their own


def report_in_words(report: "Report") -> str:
    """Findings, gravest first, the explanation, and a line that sums up."""
    text = "\n".join(
        [*_findings(report.findings), *([f"\n{report.explanation}"] if report.explanation else [])]
    )
    return f"{text}\n\n{_summary(report)}".lstrip()


def fixes_in_words(fixes: "FixReport") -> str:
    """A line for each finding, its numbers before and after, and what a second diagnosis says."""
    lines = []
    for one in fixes.mended:
        lines.append(f"{one.finding.code} {_where(one.finding)}: {one.done or f'left alone: {one.reason}'}")
        lines += [f"  {change}" for change in one.changes]
    return "\n".join([*lines, f"after mending: {_count(fixes.remaining)}"])


def _findings(findings: Iterable[Finding]) -> Iterator[str]:
    """Those of one severity and code together: a few statements in full, of the others where they are."""
    for _, alike in itertools.groupby(findings, lambda finding: (finding.severity, finding.code)):
        groups = _groups(alike)
        for group in groups[:SHOWN]:
            yield from _statement(group)
        if rest := [finding for group in groups[SHOWN:] for finding in group]:
            first = rest[0]
            yield f"{first.severity} {first.code} {first.name} also in {_places(rest)}"


def _statement(group: list[Finding]) -> Iterator[str]:
    first = group[0]
    yield f"{first.severity} {first.code} {first.name} ({first.state}) in {_places(group)}"
    yield f"  {first.message}"
    shared = [key for key in first.evidence if all(key in finding.evidence for finding in group)]
    if shared:
        numbers = [
            f"{key.replace('_', ' ')} {_values([finding.evidence[key] for finding in group])}"
            for key in shared
        ]
        yield f"  evidence: {', '.join(numbers)}"
    yield f"  fix ({first.fix.kind}): {first.fix.text}"


def _values(values: list[float | str]) -> str:
    """Of all findings of a group: numbers as a range, words one by one."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return _some_of(value if isinstance(value, str) else _number(value) for value in values)
    low, high = min(numbers), max(numbers)
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.10g}"  # counts without a fraction; evidence has four digits


def _places(findings: Iterable[Finding]) -> str:
    return _some_of(map(_where, findings))


def _some_of(words: Iterable[str]) -> str:
    return some_of(dict.fromkeys(words), NAMED)


def _where(finding: Finding) -> str:
    return finding.layer or "the model"


def _groups(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that differ in layer and evidence only: one statement is true of all. The largest first."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.state, finding.message, finding.fix), []).append(finding)
    return sorted(groups.values(), key=len, reverse=True)


def _count(findings: Iterable[Finding]) -> str:
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        counts[finding.severity] += 1
    said = [f"{number} {severity}" for severity, number in counts.items() if number]
    return ", ".join(said) or "no findings"


def _some(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"


def _summary(report: "Report") -> str:
    layers = _some(report.layers_seen, "batch-norm layer")
    batches = _some(report.batches, "training batch", "es")
    text = f"{layers}, {batches}: {_count(report.findings)}"
    if report.withdrawn:
        codes = ", ".join(dict.fromkeys(finding.code for finding in report.withdrawn))
        text += f"; withdrawn: {codes}"
    if report.skipped:
        reasons = dict.fromkeys(report.skipped.values())
        text += f"; not checked: {_some(len(report.skipped), 'rule')} ({'; '.join(reasons)})"
    for reason in dict.fromkeys(report.unseen.values()):
        names = (name or "the model" for name, why in report.unseen.items() if why == reason)
        text += f"; not looked into: {_some_of(names)} ({reason})"
    return text
