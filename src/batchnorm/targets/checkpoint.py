"""Files of tensors: read without running anything, put into a model by name, packed as safetensors."""

import json
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from batchnorm.records import some_of

__all__ = ["CHECKPOINTS", "load_state", "pack_state", "put_state", "unpack_state", "unwrapped"]

# The last is the list of a checkpoint's shards.
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".index.json")

# Where training scripts keep the state dict among other things.
_KEYS = ("state_dict", "model_state_dict", "model", "ema")
# What wrappers of a model put before its names; our own training checkpoints have "model.".
_WRAPPERS = ("", "module.", "_orig_mod.", "model.", "ema.")
_PREFIXES = tuple(dict.fromkeys(outer + inner for outer in _WRAPPERS for inner in _WRAPPERS))
_SHOWN = 3


def load_state(op: str, path: str | os.PathLike[str], what: str = "weights") -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU.

    Args:
        op: Who asks, for errors.
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` of a state dict, perhaps under
            ``state_dict``, ``model_state_dict``, ``model`` or ``ema``; or the ``.index.json`` of shards.
            Other objects in it are left out; a file that wants to run code is refused.
        what: The argument that it stands for, for errors.

    Raises:
        ValueError: In one line, if it is no such file.
    """
    path = Path(path)
    if not path.name.endswith(CHECKPOINTS):
        raise ValueError(f"{op}: {what} expected a file {', '.join(CHECKPOINTS)}, got {path}")
    if not path.is_file():
        raise ValueError(f"{op}: {what} expected a file, got none at {path}")
    if path.suffix == ".safetensors":
        return unpack_state(op, path.read_bytes(), path, what)
    if path.suffix == ".json":
        shards = [load_state(op, shard, what) for shard in _shards(op, path, what)]
        return {name: value for shard in shards for name, value in shard.items()}
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is refused below, in our words
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of a damaged file torch's reader raises anything
        # a class or function that is no tensor's
        wanted = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error))
        if wanted and isinstance(error, pickle.UnpicklingError):
            raise ValueError(
                f"{op}: {what} expected tensors only, got {path} with objects that would run code "
                f"({wanted[1]}); nothing of it was run"
            ) from error
        kind = (
            "a file of tensors, got the TorchScript"
            if "TorchScript" in str(error)
            else "a whole file of tensors, got"
        )
        raise ValueError(f"{op}: {what} expected {kind} {path}") from error
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(f"{op}: {what} expected a state dict, got {type(content).__name__} in {path}")
    return tensors


def unwrapped(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under that prefix of wrappers, or none, which finds most of a model's names.

    Args:
        state: By name.
        names: Of the model.

    Example:
        >>> state = {"module.model.weight": torch.ones(1), "optimizer.step": torch.ones(1)}
        >>> list(unwrapped(state, ["weight", "bias"]))
        ['weight']
    """
    wanted = set(names)
    options = ({n[len(p) :]: v for n, v in state.items() if n.startswith(p)} for p in _PREFIXES)
    return max(options, key=lambda given: len(wanted & given.keys()))


def put_state(op: str, model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Put tensors into a model: all of them and nothing else, or an error.

    A prefix that all names have in common with wrappers (``module.``, ``model.``) is taken off, and
    counters of batches that old files lack keep their value.

    Args:
        op: Who asks, for errors.
        model: Changed.
        state: By name.
        source: Where it comes from, for errors.

    Raises:
        ValueError: If names or shapes are those of another model.
    """
    own = model.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    given = unwrapped(state, own)
    if not needed <= set(given) <= set(own):
        missing, unknown = needed - set(state), set(state) - set(own)
        raise ValueError(
            f"{op}: weights expected the names of this model, got {source} without {_some(missing)} "
            f"and with {_some(unknown)}"
        )
    for name, value in given.items():
        if value.shape != own[name].shape:
            shapes = f"{tuple(own[name].shape)} of {name}, got {tuple(value.shape)}"
            raise ValueError(f"{op}: weights expected shape {shapes} in {source}")
    model.load_state_dict({**own, **given})


def pack_state(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, as bytes."""
    # clones: safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return safetensors.torch.save(tensors, dict(metadata))


def unpack_state(op: str, content: bytes, source: object, what: str = "weights") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: If it is none, or not whole.
    """
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{op}: {what} expected a whole safetensors file, got {source}: {error}") from error


def _shards(op: str, index: Path, what: str) -> list[Path]:
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{op}: {what} expected a list of shards with weight_map, got {index}") from error
    # beside the list and no list itself: a file does not choose what else is read
    if any(not isinstance(f, str) or Path(f).name != f or f.endswith(".json") for f in files):
        raise ValueError(f"{op}: {what} expected shards beside {index}, got {', '.join(map(str, files))}")
    return [index.with_name(file) for file in sorted(files)]


def _some(names: Iterable[str]) -> str:
    return some_of(sorted(names), _SHOWN) or "none"
