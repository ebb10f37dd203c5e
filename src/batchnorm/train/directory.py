"""The run's directory: what is written when, so that a killed run goes on with the same numbers.

After each epoch the rows go out first and the checkpoint last. A run killed in between has rows
beyond its checkpoint; resuming drops them and trains that epoch again, from the same state and over
the same batches, so the same rows come back.
"""

import json
from pathlib import Path
from typing import Any

import torch

from batchnorm.records import LayerRecord, RunRecord, append_line, read_run, write_atomic
from batchnorm.records.run import EpochRecord
from batchnorm.train.checkpoint import Progress, load_checkpoint
from batchnorm.train.config import TrainConfig

__all__ = ["RunDirectory"]


class RunDirectory:
    """Files of one run.

    Args:
        path: Made if absent.
        config: What the run is asked to do.
        environment: For ``environment.json``, with the data's source under ``data``.
        resume: Go on with the run that is there, if there is one.

    Raises:
        ValueError: If another run is there, or one with other settings or images.
        OSError: If the directory cannot be written.
    """

    def __init__(self, path: Path, config: TrainConfig, environment: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.config = config
        self.trials = [(arm, seed) for seed in config.seeds for arm in config.arms]
        self.progress: Progress | None = None
        self.tensors: dict[str, torch.Tensor] = {}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"train: out expected a directory that can be written, got {path} ({error.strerror})"
            ) from error
        if (path / "config.json").exists():
            self._take_up(environment, resume)
        else:
            write_atomic(path / "environment.json", json.dumps(environment, indent=2) + "\n")
            write_atomic(path / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")

    @property
    def checkpoint(self) -> Path:
        """File of the training's state."""
        return self.path / "checkpoint.safetensors"

    def weights(self, arm: str, seed: int) -> Path:
        """File of a trained network."""
        return self.path / "weights" / f"{arm}-{seed}.safetensors"

    def record(self, epoch: EpochRecord | None, layers: list[LayerRecord]) -> None:
        """Append the rows of one epoch (no `EpochRecord` before the first)."""
        for layer in layers:
            append_line(self.path / "layers.jsonl", json.dumps(layer.to_dict()))
        if epoch is not None:
            append_line(self.path / "metrics.jsonl", json.dumps(epoch.to_dict()))

    def read(self) -> RunRecord:
        """The run so far."""
        return read_run(self.path)

    def finish(self) -> RunRecord:
        """Write ``summary.json`` and return the run."""
        run = self.read()
        write_atomic(self.path / "summary.json", json.dumps(run.summary(), indent=2) + "\n")
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

    def _take_up(self, environment: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise ValueError(f"train: out expected a new directory (or --resume), got {self.path} with a run")
        run = self.read()
        wanted = self.config.to_dict()
        for name, value in wanted.items():
            if run.config.get(name) != value:
                raise ValueError(
                    f"train: {name} expected {run.config.get(name)!r} to resume {self.path}, got {value!r}"
                )
        if run.environment["data"] != environment["data"]:
            raise ValueError(
                f"train: data expected {run.environment['data']} to resume {self.path}, "
                f"got {environment['data']}"
            )
        if self.checkpoint.exists():
            self.progress, self.tensors = load_checkpoint(self.checkpoint)
        self._drop_rows_beyond_checkpoint(run)

    def _drop_rows_beyond_checkpoint(self, run: RunRecord) -> None:
        for name, rows in (("metrics.jsonl", run.epochs), ("layers.jsonl", run.layers)):
            kept = [
                json.dumps(row.to_dict())
                for row in rows
                if row.epoch <= self.epochs_done(row.arm, row.seed) and self._started(row.arm, row.seed)
            ]
            write_atomic(self.path / name, "".join(line + "\n" for line in kept))

    def _started(self, arm: str, seed: int) -> bool:
        # layers have a row for epoch 0, which is written again when the trial begins again
        return self.epochs_done(arm, seed) > 0
