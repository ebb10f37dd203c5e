"""What a training run leaves behind: the rows, and the directory they live in.

``runs/<id>/`` holds ``config.json``, ``environment.json``, ``metrics.jsonl`` (an `EpochRecord` a
line), ``layers.jsonl`` (a `LayerRecord` a line) and ``summary.json`` (`RunRecord.summary`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from batchnorm.records.files import read_object, read_records
from batchnorm.records.record import Record

__all__ = ["QUANTILE_LEVELS", "EpochRecord", "LayerRecord", "RunRecord", "read_run"]

DataSource = Literal["fashion-mnist", "embedded-sample"]

QUANTILE_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class EpochRecord(Record):
    """One epoch of one arm with one seed.

    Attributes:
        arm: ``none``, ``batch``, ``torch`` or ``scratch``.
        seed: Seed of the weights and of the order of batches.
        epoch: Counted from 1.
        loss: Mean training loss over the epoch's images, as they were seen.
        train_accuracy: Share of them classified rightly while training, 0 to 1.
        test_accuracy_running: On the test set, with the running statistics.
        test_accuracy_recalibrated: The same with population statistics; equal to the running one
            for a network without batch normalization; NaN if that diverged so far that there are none.
        images_per_second: Training only: images of the epoch over its seconds.
    """

    arm: str
    seed: int
    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy_running: float
    test_accuracy_recalibrated: float
    images_per_second: float


@dataclasses.dataclass(frozen=True)
class LayerRecord(Record):
    """What one normalization layer looked like at the end of one epoch (0: before training).

    Attributes:
        arm: As in `EpochRecord`.
        seed: As in `EpochRecord`.
        epoch: Counted from 1; 0 is the network before its first step.
        layer: Name of the layer in the model; arms share the names.
        input_quantiles: Quantiles of the layer's input over a fixed probe batch, all channels
            together, at `QUANTILE_LEVELS`.
        running_mean: Per channel, or None without batch normalization.
        running_var: Per channel (unbiased), or None.
        population_mean: Per channel, from recalibration; None for a frozen or diverged layer too.
        population_var: Per channel (unbiased), likewise.
        weight: gamma per channel, or None.
        bias: beta per channel, or None.
    """

    arm: str
    seed: int
    epoch: int
    layer: str
    input_quantiles: tuple[float, ...]
    running_mean: tuple[float, ...] | None = None
    running_var: tuple[float, ...] | None = None
    population_mean: tuple[float, ...] | None = None
    population_var: tuple[float, ...] | None = None
    weight: tuple[float, ...] | None = None
    bias: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A whole run, as read back from its directory.

    Attributes:
        name: The directory's name.
        config: What was asked for, ``config.json``.
        environment: Versions, commit, threads; ``environment.json``.
        data: Which images: the whole set, or the sample that travels in the package.
        epochs: In the order they were written.
        layers: In the order they were written.
    """

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: DataSource
    epochs: tuple[EpochRecord, ...]
    layers: tuple[LayerRecord, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms in the order they ran."""
        return tuple(dict.fromkeys(row.arm for row in self.epochs))

    def seeds(self, arm: str) -> tuple[int, ...]:
        """Seeds of one arm in the order they ran."""
        return tuple(dict.fromkeys(row.seed for row in self.epochs if row.arm == arm))

    def curve(self, arm: str, seed: int) -> tuple[EpochRecord, ...]:
        """The epochs of one arm and seed."""
        return tuple(row for row in self.epochs if row.arm == arm and row.seed == seed)

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``: last epoch and all epochs of each arm and seed.

        Non-finite numbers (a diverged loss) are None, since JSON has no word for them.
        """
        arms: dict[str, Any] = {}
        for arm in self.arms:
            seeds = {}
            for seed in self.seeds(arm):
                rows = [_measures(row) for row in self.curve(arm, seed)]
                seeds[str(seed)] = {**rows[-1], "epochs": rows}
            arms[arm] = {"seeds": seeds}
        return {"data": self.data, "arms": arms}


def _measures(row: EpochRecord) -> dict[str, Any]:
    return {key: value for key, value in row.to_dict().items() if key not in ("arm", "seed", "epoch")}


def read_run(directory: str | Path) -> RunRecord:
    """Read a run directory.

    Args:
        directory: As written by ``batchnorm train``; a run in progress is fine.

    Raises:
        FileNotFoundError: If there is no run there.
        ValueError: If a file of the run is not what it should be; the text names the file.
    """
    directory = Path(directory)
    if not all((directory / name).is_file() for name in ("config.json", "environment.json")):
        raise FileNotFoundError(
            f"read_run: directory expected a run with config.json and environment.json, got {directory}"
        )
    config = read_object(directory / "config.json")
    environment = read_object(directory / "environment.json")
    epochs = tuple(read_records(directory / "metrics.jsonl", EpochRecord))
    layers = tuple(read_records(directory / "layers.jsonl", LayerRecord))
    data: DataSource = "embedded-sample" if environment.get("data") == "embedded-sample" else "fashion-mnist"
    return RunRecord(directory.resolve().name, config, environment, data, epochs, layers)
