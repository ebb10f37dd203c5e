"""What the doctor found: one fault, the evidence for it, and what mends it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from batchnorm.records.record import Record

__all__ = ["SEVERITIES", "Finding", "Fix"]

SEVERITIES = ("error", "warn", "info")  # changes results now, probably does, worth knowing
FIXES = ("safe", "consent", "advice")
STATES = ("found", "suspected", "confirmed", "withdrawn")

Evidence = Mapping[str, float | str]


@dataclasses.dataclass(frozen=True)
class Fix(Record):
    """What mends a fault.

    Attributes:
        kind: ``safe`` (``report.fix`` makes it, outputs stay), ``consent`` (it does so when told to, numbers
            change) or ``advice`` (a person has to).
        text: What to do, in words.
    """

    kind: str
    text: str

    def __post_init__(self) -> None:
        if self.kind not in FIXES:
            raise ValueError(f"finding: kind of fix expected one of {', '.join(FIXES)}, got {self.kind!r}")


@dataclasses.dataclass(frozen=True)
class Finding(Record):
    """One fault.

    Attributes:
        code: As ``BN013``.
        name: As ``eps-mismatch``.
        severity: ``error`` changes results now, ``warn`` probably does, ``info`` is worth knowing.
        layer: Name of the layer; None if it is not one layer's.
        message: What happened and why it matters here.
        evidence: The numbers it rests on, by name.
        fix: What mends it.
        state: ``found`` (its evidence settles it), ``suspected`` (data could settle it, there were
            none), ``confirmed`` or ``withdrawn`` (data settled it).
    """

    code: str
    name: str
    severity: str
    layer: str | None
    message: str
    evidence: Evidence
    fix: Fix
    state: str = "found"

    def __post_init__(self) -> None:
        for field, words in (("severity", SEVERITIES), ("state", STATES)):
            if getattr(self, field) not in words:
                raise ValueError(
                    f"finding: {field} expected one of {', '.join(words)}, got {getattr(self, field)!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite becomes a word, which evidence may hold.

        Example:
            >>> fix = Fix("consent", "recalibrate")
            >>> one = Finding("BN001", "stats-never-updated", "error", "norm", "...", {"count": 0}, fix)
            >>> Finding.from_dict(one.to_dict()) == one
            True
        """
        row = dataclasses.asdict(self)
        row["evidence"] = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in self.evidence.items()
        }
        return row
