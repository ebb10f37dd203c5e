"""What to measure, and in which order."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from batchnorm.bench.cases import CASES, DTYPES, LAYOUTS, Case
from batchnorm.bench.steps import PEERS
from batchnorm.ops import BACKENDS

__all__ = ["BenchPlan"]

_CHOICES = {"cases": tuple(CASES), "dtypes": tuple(DTYPES), "layouts": LAYOUTS, "peers": PEERS}


@dataclasses.dataclass(frozen=True)
class BenchPlan:
    """What `run_bench` shall measure; everything is crossed with everything.

    Attributes:
        shapes: Of the inputs, ``(N, C)`` to ``(N, C, D, H, W)``.
        cases: Some of ``forward``, ``forward+backward``, ``relu``, ``add+relu``, ``sigmoid``, ``predict``.
        dtypes: Some of ``float32``, ``bfloat16``, ``float16``, ``float64``.
        layouts: Some of ``contiguous``, ``channels_last``; a shape without one leaves it out.
        peers: Some of ``torch``, ``inplace``, ``compile``, ``copy``.
        threads: Numbers of CPU threads; one with ``cuda``.
        huge_pages: Settings of ``THP_MEM_ALLOC_ENABLE``; one with ``cuda``.
        pairs: How often ours and the peer are timed in turn.
        backend: Of our layers.
        seed: Of the data.
        device: ``cpu`` or ``cuda``.

    Raises:
        ValueError: If a setting is unknown or out of range, or nothing is left to measure.
    """

    shapes: tuple[tuple[int, ...], ...]
    cases: tuple[str, ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    peers: tuple[str, ...]
    threads: tuple[int, ...]
    huge_pages: tuple[bool, ...]
    pairs: int
    backend: str
    seed: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check every setting."""
        there = self.device == "cpu" or (self.device == "cuda" and torch.cuda.is_available())
        _expect("device", there, "cpu, or cuda on a machine with a CUDA device", self.device)
        for name, choices in _CHOICES.items():
            given = getattr(self, name)
            holds = bool(given) and set(given) <= set(choices)
            _expect(name, holds, f"some of {', '.join(choices)}", given)
        _expect("shapes", bool(self.shapes), "at least one", "none")
        for shape in self.shapes:
            text = "x".join(map(str, shape))
            _expect("shapes", 2 <= len(shape) <= 5 and min(shape) >= 1, "2 to 5 sizes >= 1", text)
            values_per_channel = math.prod(shape) // shape[1]
            _expect("shapes", values_per_channel > 1, "more than 1 value per channel", text)
        _expect("threads", bool(self.threads) and min(self.threads) >= 1, "integers >= 1", self.threads)
        _expect("huge_pages", bool(self.huge_pages), "on, off or both", self.huge_pages)
        for name in ("threads", "huge_pages"):
            given = getattr(self, name)
            _expect(name, self.device == "cpu" or len(given) == 1, "one setting with device cuda", given)
        _expect("pairs", self.pairs >= 1, "an integer >= 1", self.pairs)
        _expect("backend", self.backend in BACKENDS, f"one of {', '.join(BACKENDS)}", self.backend)
        _expect("layouts", any(self.problems()), "one that the shapes have", self.layouts)

    def problems(self) -> Iterator[tuple[Case, tuple[int, ...], str, str]]:
        """Case, shape, dtype and layout of what each worker measures, in its order."""
        for shape in self.shapes:
            for dtype in self.dtypes:
                for layout in self.layouts:
                    if layout == "contiguous" or len(shape) >= 4:
                        for case in self.cases:
                            yield CASES[case], shape, dtype, layout

    def __len__(self) -> int:
        """How many records there will be."""
        settings = len(self.threads) * len(self.huge_pages)
        return settings * len(self.peers) * sum(1 for _ in self.problems())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BenchPlan":
        """Inverse of `dataclasses.asdict`, after JSON made lists of the tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**{**fields, "shapes": tuple(tuple(shape) for shape in fields["shapes"])})


def _expect(name: str, holds: bool, expected: str, value: Any) -> None:
    if not holds:
        value = ",".join(map(str, value)) or "none" if isinstance(value, tuple) else value
        raise ValueError(f"bench: {name} expected {expected}, got {value}")
