"""The run's directory: what is written when, so that a killed run goes on with the same numbers.

After each epoch the rows go out first and the checkpoint last. A run killed in between has rows
beyond its checkpoint; resuming drops them and trains that epoch again, from the same state and over
the same batches, so the same rows come back.

One process writes, the one that holds ``run.lock``; its siblings only read.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from batchnorm.records import (
    EpochRecord,
    FaultRecord,
    LayerRecord,
    RunRecord,
    append_line,
    read_faults,
    read_object,
    read_records,
    read_run,
    remove_unfinished,
    write_atomic,
)
from batchnorm.train.checkpoint import Progress, load_checkpoint
from batchnorm.train.config import TrainConfig
from batchnorm.train.lock import locked

__all__ = ["RunDirectory", "has_run"]

CONFIG, ENVIRONMENT, SUMMARY = "config.json", "environment.json", "summary.json"
METRICS, LAYERS, FAULTS = "metrics.jsonl", "layers.jsonl", "faults.jsonl"
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "weights"
LOCK = "run.lock"
FILES = (CONFIG, ENVIRONMENT, SUMMARY, METRICS, LAYERS, FAULTS, CHECKPOINT)
DIRECTORIES = (WEIGHTS, "events", "charts")
# Whoever has one of these in a directory would lose it; report, charts and events are not written here.
NAMES = (*FILES, "report.html", *DIRECTORIES)


def has_run(path: Path) -> bool:
    """Whether a run was begun in a directory: one that was killed at once has left its lock at least."""
    return any((path / name).is_file() for name in (CONFIG, LOCK))


class RunDirectory:
    """Files of one run.

    Args:
        path: Made by the process that leads if it is absent.
        config: What the run is asked to do.
    """

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self.path = path
        self.config = config
        self.trials = [(arm, seed) for seed in config.seeds for arm in config.arms]
        self.progress: Progress | None = None
        self.tensors: dict[str, torch.Tensor] = {}

    @contextlib.contextmanager
    def led(self, environment: dict[str, Any], *, resume: bool) -> Iterator[None]:
        """Be the process that writes: begin a run, or take up the one that is there.

        Args:
            environment: For ``environment.json``, with the data's source under ``data``.
            resume: Go on with the run that is there, if there is one.

        Raises:
            ValueError: If the directory has other files, another run, one with other settings, images or
                number of processes, or one that lacks what it had recorded; if another process writes it,
                or it cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._expect_room(resume)
                stack.enter_context(locked(self.path / LOCK))
            except BlockingIOError as error:
                raise ValueError(
                    f"train: out expected a directory that no other process writes, got {self.path} "
                    f"({error.strerror})"
                ) from error
            except OSError as error:
                raise ValueError(
                    f"train: out expected a directory that can be written, got {self.path} ({error.strerror})"
                ) from error
            self._expect_room(resume)  # another process may have come and gone before we held the lock
            self._sweep()
            self.look()
            if self.progress is None:
                self._begin(environment)
            else:
                self._take_up(environment)
            yield

    def look(self) -> None:
        """See how far the run is; writes nothing.

        Raises:
            ValueError: If the checkpoint is damaged, or of another run.
        """
        if self.checkpoint.exists():
            at, self.tensors = load_checkpoint(self.checkpoint)
            if (at.arm, at.seed) not in self.trials or at.epoch > self.config.epochs:
                raise ValueError(
                    f"train: {self.checkpoint} expected a checkpoint of this run, "
                    f"got one of arm {at.arm}, seed {at.seed}, epoch {at.epoch}"
                )
            self.progress = at

    def standing(self) -> str:
        """What is there, in words; processes that look at the same directory say the same."""
        if not has_run(self.path):
            return "no run"
        if self.progress is None:
            return "a run at its start"
        return f"a run at epoch {self.progress.epoch} of {self.progress.arm}, seed {self.progress.seed}"

    @property
    def checkpoint(self) -> Path:
        """File of the training's state."""
        return self.path / CHECKPOINT

    def weights(self, arm: str, seed: int) -> Path:
        """File of a trained network."""
        return self.path / WEIGHTS / f"{arm}-{seed}.safetensors"

    def record(self, epoch: EpochRecord | None, layers: list[LayerRecord]) -> None:
        """Append the rows of one epoch (no `EpochRecord` before the first)."""
        for layer in layers:
            append_line(self.path / LAYERS, json.dumps(layer.to_dict()))
        if epoch is not None:
            append_line(self.path / METRICS, json.dumps(epoch.to_dict()))

    def read(self) -> RunRecord:
        """The run so far."""
        return read_run(self.path)

    def finish(self) -> RunRecord:
        """Write ``summary.json`` and return the run."""
        run = self.read()
        write_atomic(self.path / SUMMARY, json.dumps(run.summary(), indent=2) + "\n")
        return run

    def epochs_done(self, arm: str, seed: int) -> int:
        """Epochs of this arm and seed that are behind the run."""
        if self.progress is None:
            return 0
        here, there = (
            self.trials.index((arm, seed)),
            self.trials.index((self.progress.arm, self.progress.seed)),
        )
        if here == there:
            return self.progress.epoch
        return self.config.epochs if here < there else 0

    def _expect_room(self, resume: bool) -> None:
        """Refuse what is not ours to write over; a run without a whole epoch has nothing to lose."""
        found = [name for name in NAMES if (self.path / name).exists()]
        if not found:
            return
        for name in found:
            expected, got = ("directory", "file") if name in DIRECTORIES else ("file", "directory")
            if (self.path / name).is_dir() != (expected == "directory"):
                raise ValueError(f"train: {self.path / name} expected a {expected}, got a {got}")
        theirs = read_object(self.path / CONFIG) if CONFIG in found else {}
        ours = self.config.to_dict()
        if theirs and resume:
            for name in theirs | ours:  # another version's run may have settings that we lack
                before, now = theirs.get(name), ours.get(name)
                if before != now:
                    raise ValueError(f"train: {name} expected {before!r} to resume {self.path}, got {now!r}")
        elif theirs.keys() != ours.keys() or METRICS in found or CHECKPOINT in found:
            hint = " (or --resume)" if theirs else ""
            raise ValueError(
                f"train: out expected a new directory{hint}, got {self.path} with {', '.join(found)}"
            )

    def _sweep(self) -> None:
        """Remove what writers that were killed left; we hold the lock, so that nobody writes now."""
        remove_unfinished(self.path, FILES)
        remove_unfinished(self.path / WEIGHTS, {self.weights(*trial).name for trial in self.trials})

    def _begin(self, environment: dict[str, Any]) -> None:
        epochs = len(list(read_records(self.path / METRICS, EpochRecord)))
        if epochs > 1:  # a kill before the first checkpoint leaves one
            raise ValueError(
                f"train: {self.checkpoint} expected the state after {epochs} epochs of {METRICS}, got none"
            )
        for name in (METRICS, LAYERS, FAULTS):
            (self.path / name).unlink(missing_ok=True)
        # The config comes first: by it a start that was killed is known as ours.
        write_atomic(self.path / CONFIG, json.dumps(self.config.to_dict(), indent=2) + "\n")
        write_atomic(self.path / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def _take_up(self, environment: dict[str, Any]) -> None:
        then = read_object(self.path / ENVIRONMENT)
        for name in ("data", "processes"):
            before, now = then.get(name), environment[name]
            if before != now:
                raise ValueError(f"train: {name} expected {before} to resume {self.path}, got {now}")
        run = self.read()
        self._expect_rows(METRICS, run.epochs, first=1)
        self._expect_rows(LAYERS, run.layers, first=0)
        # Rows beyond the checkpoint go, and lines that were not finished.
        self._write_rows(METRICS, [row for row in run.epochs if self._counts(row)])
        self._write_rows(LAYERS, [row for row in run.layers if self._counts(row)])
        if (self.path / FAULTS).exists():
            self._write_rows(FAULTS, read_faults(self.path))

    def _expect_rows(self, name: str, rows: Iterable[EpochRecord | LayerRecord], *, first: int) -> None:
        there = {(row.arm, row.seed, row.epoch) for row in rows}
        for arm, seed in self.trials:
            done = self.epochs_done(arm, seed)
            for epoch in range(first, done + 1) if done else ():
                if (arm, seed, epoch) not in there:
                    raise ValueError(
                        f"train: {self.path / name} expected the rows up to {CHECKPOINT}, "
                        f"got none of arm {arm}, seed {seed}, epoch {epoch}"
                    )

    def _write_rows(self, name: str, rows: Iterable[EpochRecord | LayerRecord | FaultRecord]) -> None:
        write_atomic(self.path / name, "".join(json.dumps(row.to_dict()) + "\n" for row in rows))

    def _counts(self, row: EpochRecord | LayerRecord) -> bool:
        # layers have a row for epoch 0, which is written again when the trial begins again
        done = self.epochs_done(row.arm, row.seed)
        return done > 0 and row.epoch <= done
