"""What a run is asked to do: one frozen dataclass that checks itself."""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

from batchnorm.nn.statistics import Rows, statistics_from_text
from batchnorm.ops import BACKENDS

__all__ = ["ARMS", "MODELS", "TrainConfig"]

ARMS = ("none", "batch", "torch", "scratch")
MODELS = ("lenet", "resnet20", "resnet56", "resnet110")

_CHOICES: dict[str, tuple[str, ...]] = {
    "model": MODELS,
    "backend": BACKENDS,
    "optimizer": ("sgd", "adam"),
    "schedule": ("constant", "cosine", "step"),
    "precision": ("float32", "bfloat16", "float16"),
}
_WHOLE = ("epochs", "batch_size", "accumulate", "threads", "recalibration_images", "train_images")
_NUMBERS = ("lr", "momentum", "weight_decay", "clip")
MOST_THREADS = 1024
MOST_SEED = 2**32 - 1  # torch's CPU generator keeps 32 bits: beyond, seeds repeat the weights of others


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; the defaults are the textbook's experiment.

    Attributes:
        model: ``lenet``, ``resnet20``, ``resnet56`` or ``resnet110``.
        arms: Networks to train side by side: ``none`` (no batch normalization), ``batch`` (our
            fused layer), ``torch`` (torch.nn's layer), ``scratch`` (our layer in plain torch).
        seeds: Each seed fixes the initial weights and the order of batches, the same in every arm; below 2³².
        epochs: Passes over the training set.
        batch_size: Images per optimizer step, over all processes and micro-batches together.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others; if False, only one
            with less than two images per micro-batch and process. One such step at the textbook's
            learning rate costs two points of accuracy; see decision 5.
        lr: Learning rate of the first step, above 0.
        optimizer: ``sgd`` or ``adam``.
        momentum: Of SGD, 0 to 1.
        weight_decay: L2 decay of the weights; never of batch-norm parameters or biases.
        schedule: ``constant``, ``cosine`` (to 0, one step after the last) or ``step`` (× 0.1 after one half
            and three quarters of the steps).
        accumulate: Micro-batches per optimizer step; divides ``batch_size``.
        clip: Largest gradient norm, or None.
        precision: ``float32``, or ``bfloat16`` / ``float16`` for autocast.
        stats: Statistics of the arms ``batch`` and ``scratch``; see `statistics_from_text`.
        backend: Of our layers; see `batchnorm.ops.BACKENDS`.
        device: As torch names it.
        threads: CPU threads, or None for torch's choice.
        deterministic: Demand deterministic algorithms of torch.
        recalibration_images: Training images for population statistics, the first so many, or None for all.
        train_images: Use only the first so many training images, or None for all.

    Raises:
        ValueError: For any value out of range; the text names the setting.
    """

    model: str = "lenet"
    arms: tuple[str, ...] = ("none", "batch")
    seeds: tuple[int, ...] = (0,)
    epochs: int = 10
    batch_size: int = 256
    drop_last: bool = True
    lr: float = 1.0
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    accumulate: int = 1
    clip: float | None = None
    precision: str = "float32"
    stats: str = "batch"
    backend: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    deterministic: bool = False
    recalibration_images: int | None = None
    train_images: int | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in _WHOLE:
            self._make(name, operator.index, "an integer >= 1")
        for name in _NUMBERS:
            self._make(name, _plain_number, "a number")
        self._make("arms", _names, f"some of {', '.join(ARMS)}")
        self._make("seeds", _integers, "integers >= 0, in a tuple")
        for name in ("drop_last", "deterministic"):
            self._expect(name, isinstance(getattr(self, name), bool), "True or False")
        for name, choices in _CHOICES.items():
            self._expect(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        self._expect("arms", bool(self.arms) and set(self.arms) <= set(ARMS), f"some of {', '.join(ARMS)}")
        self._expect("arms", len(set(self.arms)) == len(self.arms), "each arm once")
        self._expect("seeds", bool(self.seeds) and min(self.seeds) >= 0, "integers >= 0")
        self._expect("seeds", max(self.seeds) <= MOST_SEED, f"integers up to {MOST_SEED}")
        self._expect("seeds", len(set(self.seeds)) == len(self.seeds), "each seed once")
        for name in ("epochs", "batch_size", "accumulate"):
            self._expect(name, getattr(self, name) >= 1, "an integer >= 1")
        for name in ("threads", "train_images", "recalibration_images"):
            value = getattr(self, name)
            self._expect(name, value is None or value >= 1, "an integer >= 1")
        self._expect("threads", (self.threads or 1) <= MOST_THREADS, f"at most {MOST_THREADS}")
        self._expect("lr", self.lr > 0 and math.isfinite(self.lr), "a finite number > 0")
        self._expect("momentum", 0 <= self.momentum < 1, "0 <= momentum < 1")
        self._expect("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number >= 0")
        self._expect("clip", self.clip is None or self.clip > 0, "a number > 0")
        self._expect(
            "accumulate", self.batch_size % self.accumulate == 0, f"a divisor of batch_size {self.batch_size}"
        )
        if statistics_from_text(self.stats).find(Rows) is not None:
            self._expect("stats", False, "kinds without rows: images have no domains or steps")
        self.expect_processes(1)

    def expect_processes(self, processes: int) -> None:
        """Check that a batch suffices for so many processes.

        Two images are the least for batch normalization: one gives a dense layer one value per channel.

        Raises:
            ValueError: If a micro-batch of some process would have fewer.
        """
        least = 1 if set(self.arms) == {"none"} else 2
        where = f"in each of {processes} processes" if processes > 1 else "for batch normalization"
        self._expect(
            "batch_size",
            self.batch_size >= least * self.accumulate * processes,
            f"at least {least} images per micro-batch {where}",
        )

    def _make(self, name: str, kind: Callable[[Any], Any], expected: str) -> None:
        """Make a setting plain: numbers of NumPy, a range or a list are not, and JSON knows none of them."""
        value = getattr(self, name)
        if value is None and getattr(type(self), name) is None:  # its default
            return
        try:
            object.__setattr__(self, name, kind(value))  # frozen
        except TypeError:
            self._expect(name, False, expected)

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            value = getattr(self, name)
            value = ",".join(map(str, value)) or "none" if isinstance(value, tuple) else value
            raise ValueError(f"train: {name} expected {expected}, got {value}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a setting is unknown or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"train: config expected the settings of TrainConfig, got {', '.join(unknown)}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


def _plain_number(value: Any) -> int | float:
    if not isinstance(value, numbers.Real):
        raise TypeError
    return value if isinstance(value, int) else float(value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError
    return tuple(value)


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(map(operator.index, value))
