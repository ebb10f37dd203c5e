"""The smallest unit of a study: one function with settings and a seed, run once and for all."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from batchnorm.records import TrialRecord, error_line
from batchnorm.study.code import code_version

__all__ = ["Setting", "Trial", "execute", "lost"]

Setting = str | int | float | bool | tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A computation to do; hashable, and picklable for other processes.

    Attributes:
        function: Module-level; called as ``function(seed=…, **settings)``; returns JSON values by name.
        settings: Pairs of name and value, in the order of the names.
        seed: Of everything that is random in it.
        cost: Estimate in training images of LeNet, the currency of `batchnorm.study.cost`.
    """

    function: Callable[..., Mapping[str, Any]]
    settings: tuple[tuple[str, Setting], ...]
    seed: int
    cost: float = 0.0

    @classmethod
    def of(
        cls, function: Callable[..., Mapping[str, Any]], seed: int, cost: float = 0.0, **settings: Setting
    ) -> "Trial":
        """A trial from keyword arguments."""
        return cls(function, tuple(sorted(settings.items())), seed, cost)

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def key(self) -> str:
        """What a done trial is known by: configuration and code version.

        Equal for equal function, settings, seed, code that the function rests on, and torch's version.
        """
        code = code_version(self.function.__module__)
        what = [self.name, dict(self.settings), self.seed, code, torch.__version__]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def execute(trial: Trial) -> TrialRecord:
    """Run a trial in this process, on one thread; whatever goes wrong becomes part of the record."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result: Mapping[str, Any] = {}
    error = ""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    try:
        result = trial.function(seed=trial.seed, **dict(trial.settings))
    except Exception as raised:
        error = error_line(raised)
    finally:
        torch.set_num_threads(threads)
    return dataclasses.replace(
        lost(trial, error),
        status="failed" if error else "done",
        result=result,
        seconds=time.perf_counter() - wall,
        cpu_seconds=_cpu_seconds() - cpu,
    )


def lost(trial: Trial, error: str) -> TrialRecord:
    """The record of a trial of which nothing came back."""
    return TrialRecord(
        key=trial.key,
        function=trial.name,
        settings=dict(trial.settings),
        seed=trial.seed,
        status="failed",
        result={},
        error=error,
        seconds=0.0,
        cpu_seconds=0.0,
    )


def _cpu_seconds() -> float:
    """Processor time of this process and of the processes that it has started and seen end."""
    return sum(os.times()[:4])
