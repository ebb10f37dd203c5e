"""Batch normalization for PyTorch that you can read, trust and ship.

Names are imported when first used: the command line answers ``--help`` without loading torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchnorm import interop, nn, ops
    from batchnorm.doctor import Watch, diagnose
    from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormLSTM, lean
    from batchnorm.nn import statistics as stats
    from batchnorm.surgery import convert, fold, recalibrate, reduce_running_stats, revert

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormLSTM",
    "Watch",
    "convert",
    "diagnose",
    "fold",
    "interop",
    "lean",
    "nn",
    "ops",
    "recalibrate",
    "reduce_running_stats",
    "revert",
    "stats",
]

_HOMES = {
    "BatchNorm1d": "batchnorm.nn",
    "BatchNorm2d": "batchnorm.nn",
    "BatchNorm3d": "batchnorm.nn",
    "BatchNormLSTM": "batchnorm.nn",
    "Watch": "batchnorm.doctor",
    "convert": "batchnorm.surgery",
    "diagnose": "batchnorm.doctor",
    "fold": "batchnorm.surgery",
    "lean": "batchnorm.nn",
    "recalibrate": "batchnorm.surgery",
    "reduce_running_stats": "batchnorm.surgery",
    "revert": "batchnorm.surgery",
}
_MODULES = {
    "interop": "batchnorm.interop",
    "nn": "batchnorm.nn",
    "ops": "batchnorm.ops",
    "stats": "batchnorm.nn.statistics",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("batchnorm")
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
