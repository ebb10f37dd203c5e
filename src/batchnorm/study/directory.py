"""A study's directory: every trial as soon as it ends, the verdict when all have; one process writes."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchnorm.records import (
    TrialRecord,
    VerdictRecord,
    append_line,
    read_records,
    remove_unfinished,
    write_atomic,
)
from batchnorm.train.lock import locked

__all__ = ["StudyDirectory", "only_writer"]

TRIALS, VERDICT = "trials.jsonl", "verdict.json"


@contextlib.contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Be the one process that writes studies in a directory; who only reads need not be.

    Args:
        out: Made if absent.

    Raises:
        ValueError: If another process writes there, or nobody can.
    """
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(out / "study.lock"))
        except OSError as error:
            taken = isinstance(error, BlockingIOError)
            kind = "no other study writes" if taken else "can be written"
            raise ValueError(
                f"study: out expected a directory that {kind}, got {out} ({error.strerror})"
            ) from error
        yield


class StudyDirectory:
    """Records of one study; those that are there are taken up.

    Args:
        path: Made if absent.
        dry: Only look: make nothing, mend nothing.

    Raises:
        ValueError: If it cannot be made, or a record there cannot be read.
    """

    def __init__(self, path: Path, *, dry: bool = False) -> None:
        self.path = path
        try:
            if not dry:
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"study: out expected a directory that can be written, got {path} ({error.strerror})"
            ) from error
        if not dry:
            remove_unfinished(path, {TRIALS, VERDICT})
        rows = list(read_records(self.trials, TrialRecord))
        self.records = {row.key: row for row in rows}
        if rows and not dry:  # drops the unfinished last line of a killed process, not to be appended to
            self._write(rows)

    @property
    def trials(self) -> Path:
        """File with a `TrialRecord` a line."""
        return self.path / TRIALS

    def is_done(self, key: str) -> bool:
        """Whether this trial need not run; one that failed is tried again."""
        return key in self.records and self.records[key].status == "done"

    def add(self, record: TrialRecord) -> None:
        """Keep a trial that has ended."""
        self.records[record.key] = record
        append_line(self.trials, json.dumps(record.to_dict()))

    def finish(self, keys: Sequence[str], verdict: VerdictRecord) -> None:
        """Put the trials in the plan's order, those of other plans behind them, and write the verdict."""
        others = [key for key in self.records if key not in set(keys)]
        self._write([self.records[key] for key in (*keys, *others)])
        write_atomic(self.path / VERDICT, json.dumps(verdict.to_dict(), indent=1) + "\n")

    def _write(self, rows: Sequence[TrialRecord]) -> None:
        write_atomic(self.trials, "".join(json.dumps(row.to_dict()) + "\n" for row in rows))
