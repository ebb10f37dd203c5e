"""Functions by name: ``package.module:factory`` or ``file.py:factory``."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from batchnorm.records import error_line
from batchnorm.targets.checkpoint import CHECKPOINTS, load_state, put_state
from batchnorm.targets.program import PROGRAMS

__all__ = ["load_factory", "load_model"]

# A script that reads its own arguments, or has no guard around its main, leaves by the second.
_FAILURES = (Exception, SystemExit)


def load_model(op: str, text: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """The model that a factory makes, with the weights of a file.

    Args:
        op: Who asks, for errors.
        text: ``package.module:factory`` or ``file.py:factory``, called without arguments.
        weights: A checkpoint, see `load_state`; None for the weights that the factory gives.

    Raises:
        ValueError: In one line: there is no such factory, it fails, makes something else, or the weights
            are those of another model.
    """
    if text.endswith(CHECKPOINTS):
        raise ValueError(
            f"{op}: target expected a factory, as file.py:factory, and its tensors as --weights, got {text}"
        )
    if text.endswith(PROGRAMS):
        raise ValueError(
            f"{op}: target expected a factory, as file.py:factory, got {text}, a program without modules"
        )
    model = load_factory(op, "target", text)()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{op}: target expected a factory of a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        put_state(op, model, load_state(op, weights), weights)
    return model


def load_factory(op: str, what: str, text: str) -> Callable[..., Any]:
    """A function by name; whatever goes wrong in it is one line.

    Args:
        op: Who asks, for errors.
        what: The argument that it stands for, for errors.
        text: ``package.module:function`` or ``file.py:function``. The former is looked for in the current
            directory too, and what a file imports in the directory of that file.

    Raises:
        ValueError: If it cannot be imported; from the function, whatever that raises.
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"{op}: {what} expected package.module:factory or file.py:factory, got {text!r}")
    try:
        module = _import(place)
    except _FAILURES as error:
        raise ValueError(
            f"{op}: {what} expected a module that can be imported, got {place}: {error_line(error)}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{op}: {what} expected a function {name!r} in {place}, got none")

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except _FAILURES as error:
            raise ValueError(f"{op}: {what} expected {text} to work, got {error_line(error)}") from error

    return call


def _import(place: str) -> ModuleType:
    is_file = place.endswith(".py")
    # A console script's path has neither; python itself would look there for what the code imports.
    home = str(Path(place).resolve().parent) if is_file else os.getcwd()
    if home not in sys.path:
        sys.path.insert(0, home)
    if not is_file:
        return importlib.import_module(place)
    if not Path(place).is_file():
        raise FileNotFoundError("no such file")
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # workers of a data loader look classes up by this name
    spec.loader.exec_module(module)
    return module
