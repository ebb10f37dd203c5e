"""A report and what was mended, in words: what the terminal shows and ``print`` gives."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from batchnorm.records import SEVERITIES, Finding

if TYPE_CHECKING:
    from batchnorm.doctor.fix import FixReport
    from batchnorm.doctor.report import Report

__all__ = ["fixes_in_words", "report_in_words"]

NAMED = 4  # layers of one code


def report_in_words(report: "Report") -> str:
    """Findings, gravest first, the explanation, and a line that sums up."""
    parts = ["\n".join(_finding(group)) for group in _groups(report.findings)]
    text = "\n".join([*parts, *([f"\n{report.explanation}"] if report.explanation else [])])
    return f"{text}\n\n{_summary(report)}".lstrip()


def fixes_in_words(fixes: "FixReport") -> str:
    """A line for each finding, its numbers before and after, and what a second diagnosis says."""
    lines = []
    for one in fixes.mended:
        lines.append(f"{one.finding.code} {_where(one.finding)}: {one.done or f'left alone: {one.reason}'}")
        lines += [f"  {change}" for change in one.changes]
    return "\n".join([*lines, f"after mending: {_count(fixes.remaining)}"])


def _finding(group: list[Finding]) -> Iterator[str]:
    first = group[0]
    names = ", ".join(dict.fromkeys(map(_where, group[:NAMED])))
    more = f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
    yield f"{first.severity} {first.code} {first.name} ({first.state}) in {names}{more}"
    yield f"  {first.message}"
    if first.evidence:
        numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in first.evidence.items())
        yield f"  evidence: {numbers}"
    yield f"  fix ({first.fix.kind}): {first.fix.text}"


def _where(finding: Finding) -> str:
    return finding.layer or "the model"


def _groups(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one code and severity stand together; the first speaks for them."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.code), []).append(finding)
    return list(groups.values())


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
    return text
