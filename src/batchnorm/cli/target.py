"""What a command works on: ``package.module:factory``, ``file.py:factory``, or a checkpoint file."""

import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_factory", "load_state", "load_target"]

CHECKPOINTS = (".pt", ".pth", ".safetensors")


def load_target(text: str) -> "nn.Module | Mapping[str, Tensor]":
    """The model that a factory makes, or the state dict of a checkpoint.

    Args:
        text: ``package.module:factory``, ``file.py:factory``, or a ``.pt``, ``.pth`` or ``.safetensors``
            file.

    Raises:
        ValueError: In one line, if there is no such thing or it does not make a module.
    """
    from torch import nn

    if Path(text).suffix in CHECKPOINTS:
        return load_state(Path(text))
    model = load_factory("target", text)()
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"doctor: target expected a factory of a torch.nn.Module, got {type(model).__name__}"
        )
    return model


def load_factory(what: str, text: str) -> Callable[..., Any]:
    """A function by name, wrapped so that whatever goes wrong in it is one line.

    Args:
        what: The argument it stands for, for the message.
        text: ``package.module:function`` or ``file.py:function``.
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"doctor: {what} expected package.module:factory or file.py:factory, got {text!r}")
    function = getattr(_module(what, place), name, None)
    if not callable(function):
        raise ValueError(f"doctor: {what} expected a function {name!r} in {place}, got none")

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise ValueError(f"doctor: {what} {text} failed with {type(error).__name__}: {error}") from error

    return call


def load_state(path: Path) -> "Mapping[str, Tensor]":
    """The tensors of a checkpoint, read without running anything.

    Raises:
        ValueError: If it is no checkpoint, or one that wants to run code.
    """
    import torch
    from torch import Tensor

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"doctor: target expected a file, got none at {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"doctor: target expected a checkpoint of tensors, got {path}: {first}") from error
    for key in ("state_dict", "model", "ema"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"doctor: target expected a state dict in {path}, got {type(content).__name__}")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _module(what: str, place: str) -> Any:
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            # Data loaders and pickles look their classes up by this name.
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # a console script's path has no current directory
        return importlib.import_module(place)
    except Exception as error:
        raise ValueError(
            f"doctor: {what} expected a module that can be imported, got {place}: "
            f"{type(error).__name__}: {error}"
        ) from error
