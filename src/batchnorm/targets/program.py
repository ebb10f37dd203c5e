"""Exported programs, read as data: what their own loaders would run stays unread."""

import dataclasses
import importlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["PROGRAMS", "Program", "load_program"]

PROGRAMS = (".onnx", ".pt2")

# torch.export's numbers of dtypes (schema.py, ScalarType), those that batch norm can have.
_DTYPES = {5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A ``.pt2`` file of `torch.export.save`.

    Attributes:
        nodes: Its operator calls, as the file's JSON has them.
        state: Parameters and buffers by name.
    """

    nodes: Sequence[Mapping[str, Any]]
    state: Mapping[str, Tensor]


def load_program(op: str, path: Path) -> Any:
    """A `Program`, or an ONNX ``ModelProto`` without the tensors that lie in other files.

    `torch.export.load` unpickles and evaluates what is in the file, so it is not used.

    Args:
        op: Who asks, for errors.
        path: ``.pt2`` or ``.onnx``.

    Raises:
        ValueError: In one line, if it is no such file, or the ``onnx`` extra is not installed.
    """
    if not path.is_file():
        raise ValueError(f"{op}: target expected a file, got none at {path}")
    try:
        return _onnx(path) if path.suffix == ".onnx" else _exported(path)
    except ImportError as error:
        raise ValueError(f"{op}: target expected pip install 'batchnorm[onnx]' to read {path}") from error
    except Exception as error:  # the parsers of both formats raise what they like on damaged files
        raise ValueError(
            f"{op}: target expected a whole {path.suffix} file, got {path}: {type(error).__name__}"
        ) from error


def _onnx(path: Path) -> Any:
    onnx = importlib.import_module("onnx")  # an extra, without types
    model = onnx.load(path, load_external_data=False)
    if not model.graph.node:
        raise ValueError("no graph")
    return model


def _exported(path: Path) -> Program:
    with zipfile.ZipFile(path) as archive:
        files = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        graph = json.loads(archive.read(files["models/model.json"]))
        config = json.loads(archive.read(files["data/weights/model_weights_config.json"]))["config"]
        state = {}
        for name, payload in config.items():
            about = payload["tensor_meta"]
            dtype = None if about is None else _DTYPES.get(about["dtype"])
            if payload["use_pickle"] or dtype is None:
                continue
            content = bytearray(archive.read(files[f"data/weights/{payload['path_name']}"]))
            shape = [size["as_int"] for size in about["sizes"]]
            if len(content) == math.prod(shape) * dtype.itemsize > 0:
                state[name] = torch.frombuffer(content, dtype=dtype).reshape(shape)
    return Program(graph["graph_module"]["graph"]["nodes"], state)
