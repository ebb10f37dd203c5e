"""A target of any kind, by its text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from batchnorm.targets.checkpoint import CHECKPOINTS, load_state
from batchnorm.targets.factory import load_model
from batchnorm.targets.program import PROGRAMS, load_program

__all__ = ["load_target"]


def load_target(op: str, text: str) -> nn.Module | Mapping[str, Tensor] | Any:
    """The model that a factory makes, the tensors of a checkpoint, or an exported program.

    Args:
        op: Who asks, for errors.
        text: ``package.module:factory`` or ``file.py:factory``, called without arguments; a checkpoint, see
            `load_state`; or a ``.onnx`` or ``.pt2`` file, see `load_program`.

    Raises:
        ValueError: In one line, if there is no such thing.
    """
    if text.endswith(CHECKPOINTS):
        return load_state(op, text, "target")
    if text.endswith(PROGRAMS):
        return load_program(op, Path(text))
    return load_model(op, text)
