"""Mending a copy of the model, with a second diagnosis to prove it."""

import dataclasses
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from batchnorm.doctor.change import Numbers, changes, numbers_of
from batchnorm.doctor.mend import ASKED, Repair
from batchnorm.doctor.rule import all_rules
from batchnorm.doctor.settings import Settings
from batchnorm.doctor.wording import fixes_in_words
from batchnorm.records import Finding
from batchnorm.surgery import RecalibrationReport
from batchnorm.surgery.copied import copied

__all__ = ["FixReport", "Mended", "fix", "mend"]


@dataclasses.dataclass(frozen=True)
class Mended:
    """What was done about one finding.

    Attributes:
        finding: As it was.
        done: What was changed, in words; empty if nothing was.
        reason: Why nothing was; empty if something was.
        changes: The layers' numbers before and after, as ``eps: 0.001 -> 1e-05``.
    """

    finding: Finding
    done: str
    reason: str
    changes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FixReport:
    """What became of a model's findings; ``print`` gives it in words.

    Attributes:
        mended: One for each finding.
        remaining: Findings of a second diagnosis, of the mended copy.
    """

    mended: tuple[Mended, ...]
    remaining: tuple[Finding, ...]

    def __str__(self) -> str:
        """What the terminal shows."""
        return fixes_in_words(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mended": [
                {
                    "finding": one.finding.to_dict(),
                    "done": one.done,
                    "reason": one.reason,
                    "changes": list(one.changes),
                }
                for one in self.mended
            ],
            "remaining": [finding.to_dict() for finding in self.remaining],
        }


def fix(
    model: nn.Module,
    findings: Sequence[Finding],
    loader: Iterable[Any] | None,
    settings: Settings,
    consent: Iterable[str],
    batches: int,
    diagnose_again: Callable[..., tuple[Finding, ...]],
) -> tuple[nn.Module, FixReport]:
    """Mend a copy of a model.

    Args:
        model: Is left alone.
        findings: What to mend, in the order of their causes.
        loader: To measure statistics on.
        settings: Of the diagnosis.
        consent: Codes of rules whose fix may change numbers; safe fixes need none.
        batches: How many batches of the loader to measure on.
        diagnose_again: The second diagnosis, of a model, data and settings that are others now.

    Raises:
        ValueError: If a code is unknown, or the model cannot be copied.
    """
    rules = all_rules()
    allowed = {code.upper() for code in consent}
    for code in sorted(allowed - rules.keys()):
        raise ValueError(f"fix: consent expected codes as {min(rules)}, got {code!r}")
    mended_model = copied("fix", model)
    if isinstance(loader, Iterator):  # it is read twice
        loader = list(itertools.islice(loader, batches))
    repair = Repair(mended_model, loader, settings, batches)
    mended = mend(repair, findings, allowed)
    if not any(one.done for one in mended):
        return mended_model, FixReport(mended, tuple(findings))
    return mended_model, FixReport(mended, diagnose_again(mended_model, loader, **repair.changed))


def mend(repair: Repair, findings: Sequence[Finding], allowed: Container[str]) -> tuple[Mended, ...]:
    """Mend in place; statistics are measured once, when all else is mended."""
    mended = [_mend(repair, finding, allowed) for finding in findings]
    return tuple(_measure(repair, mended) if repair.asked else mended)


def _mend(repair: Repair, finding: Finding, allowed: Container[str]) -> Mended:
    mend = all_rules()[finding.code].mend
    if mend is None or finding.fix.kind == "advice":
        return Mended(finding, "", f"yours to do: {finding.fix.text}")
    if finding.fix.kind == "consent" and finding.code not in allowed:
        return Mended(finding, "", f"changes numbers: needs consent to {finding.code}")
    before = numbers_of(repair.model)
    try:
        done = mend(repair, finding)
    except ValueError as error:
        return Mended(finding, "", str(error))
    return Mended(finding, done, "", changes(before, numbers_of(repair.model)))


def _measure(repair: Repair, mended: Sequence[Mended]) -> Iterator[Mended]:
    """The same, with what became of those that asked for statistics."""
    before = numbers_of(repair.model)
    try:
        report, refusal = repair.measure(), ""
    except ValueError as error:
        report, refusal = None, str(error)
    after = numbers_of(repair.model)
    for one in mended:
        layer = one.finding.layer
        reason = refusal if report is None else report.untouched.get(layer or "", "")
        if ASKED not in one.done:
            yield one
        elif reason and one.done == ASKED:
            yield Mended(one.finding, "", reason)
        else:
            said = f"not recalibrated: {reason}" if report is None or reason else _said(report)
            own = [_of(numbers, layer) for numbers in (before, after)]
            yield Mended(one.finding, one.done.replace(ASKED, said), "", (*one.changes, *changes(*own)))


def _said(report: RecalibrationReport) -> str:
    most = max(report.layers, key=lambda change: change.mean_shift)
    where = f"layer {most.name}" if most.name else "the layer"
    return (
        f"recalibrated {len(report.layers)} layers from {most.samples} samples; "
        f"largest shift {most.mean_shift:.3g} standard deviations in {where}"
    )


def _of(numbers: Numbers, layer: str | None) -> Numbers:
    return {key: value for key, value in numbers.items() if layer in (None, key[1])}
