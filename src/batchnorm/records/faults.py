"""``faults.jsonl`` of a run's directory: what the doctor found while its networks were trained."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from batchnorm.records.files import append_line, read_records
from batchnorm.records.finding import Finding
from batchnorm.records.record import Record

__all__ = ["FaultRecord", "append_fault", "read_faults"]

NAME = "faults.jsonl"


@dataclasses.dataclass(frozen=True)
class FaultRecord(Record):
    """A fault of one arm with one seed.

    Attributes:
        arm: As in `EpochRecord`.
        seed: As in `EpochRecord`.
        epoch: In which it was found, counted from 1.
        finding: What it is.
    """

    arm: str
    seed: int
    epoch: int
    finding: Finding

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "finding": self.finding.to_dict()}


def read_faults(directory: Path) -> tuple[FaultRecord, ...]:
    """The faults of a run, in the order they were found; none if it has no such file.

    Raises:
        ValueError: If a line is no fault; the text names file and line.
    """
    return tuple(read_records(directory / NAME, FaultRecord))


def append_fault(directory: Path, fault: FaultRecord) -> None:
    """Add a fault, unless the run has it already: one that was stopped finds it again."""

    def same(one: FaultRecord) -> tuple[str, int, str, str | None]:
        return one.arm, one.seed, one.finding.code, one.finding.layer

    if same(fault) not in map(same, read_faults(directory)):
        append_line(directory / NAME, json.dumps(fault.to_dict()))
