"""Where a training stands, in one file written in one step.

``checkpoint.safetensors`` holds the model's tensors under ``model.`` and the optimizer's under
``optimizer.``; its metadata say which arm, seed and epoch. Loading it executes nothing.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from batchnorm.records import write_atomic
from batchnorm.train.optimizer import optimizer_tensors, restore_optimizer

__all__ = ["Progress", "load_checkpoint", "restore", "save_checkpoint", "save_weights"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is: this arm and seed are trained up to and including this epoch.

    Attributes:
        arm: As in the config.
        seed: As in the config.
        epoch: Epochs done.
        scale: Loss scale of float16 training and the steps since it last grew; None otherwise.
    """

    arm: str
    seed: int
    epoch: int
    scale: tuple[float, int] | None = None


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's parameters and buffers, by their names, as safetensors."""
    write_atomic(path, safetensors.torch.save(_storable(model.state_dict())))


def save_checkpoint(
    path: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the file in one step; a reader finds the old state or the new one."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(optimizer).items()}
    metadata = {"progress": json.dumps(dataclasses.asdict(progress))}
    write_atomic(path, safetensors.torch.save(_storable(tensors), metadata))


def _storable(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # clone: safetensors refuses tensors that share memory
    return {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}


def load_checkpoint(path: Path) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Read a checkpoint.

    Raises:
        ValueError: If the file is not one of ours or is damaged; the text names it.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        fields: dict[str, Any] = json.loads(metadata["progress"])
        if fields["scale"] is not None:
            fields["scale"] = tuple(fields["scale"])
        return Progress(**fields), tensors
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"train: {path} expected a checkpoint of batchnorm train, got {error}") from error


def restore(
    tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, path: Path
) -> None:
    """Put a checkpoint's tensors into a model and its optimizer.

    Raises:
        ValueError: If they are another model's.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = value
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"train: {path} expected the weights of this model, got {words}") from error
    restore_optimizer(optimizer, parts["optimizer"])
