"""The two formats of exported files: written as bytes, and run from them."""

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from batchnorm.records import error_line, import_optional
from batchnorm.surgery.equivalence import outputs_of, tensors_in

__all__ = ["first_line", "require_onnx", "run_onnx", "run_pt2", "to_onnx", "to_pt2"]


def require_onnx() -> None:
    """Refuse to go on without what writes and runs ONNX.

    Raises:
        NotInstalledError: If a package is missing.
    """
    for module in ("onnxruntime", "onnxscript"):
        import_optional(module, "export: an .onnx file", "batchnorm[onnx]")


def to_onnx(
    program: ExportedProgram, outputs: int, metadata: str, *, optimize: bool, dynamic_batch: bool
) -> tuple[bytes, int]:
    """An ONNX file, and the version of its operators.

    Args:
        program: From `torch.export.export`.
        outputs: How many it has.
        metadata: What the file says was folded.
        optimize: Let onnxscript simplify; it would fold batch norm, in float32 and unsaid.
        dynamic_batch: Whether the number of samples varies, for the error.

    Raises:
        ValueError: If ONNX cannot express the program, or its weights are too many for one file.
    """
    names = ["output"] if outputs == 1 else [f"output_{number}" for number in range(outputs)]
    try:
        with _quiet_exporter():
            exported = torch.onnx.export(program, output_names=names, optimize=optimize, verbose=False)
    except Exception as error:
        reason: BaseException = error
        while reason.__cause__ is not None:  # the outermost tells how to write to PyTorch
            reason = reason.__cause__
        unknown = isinstance(reason, torch.onnx.errors.OnnxExporterError)  # an operator, for any batch
        hint = "; try dynamic_batch=False" if dynamic_batch and not unknown else ""
        raise ValueError(
            f"export: model expected to be convertible to ONNX, got {first_line(reason)}{hint}"
        ) from error
    assert exported is not None
    exported.model.metadata_props["batchnorm.fold"] = metadata
    proto = exported.model_proto
    try:
        content = proto.SerializeToString()
    except Exception as error:  # protobuf's, which names no size
        raise ValueError(
            f"export: model expected to fit into the 2 GB of .onnx, got {error_line(error)}; write .pt2"
        ) from error
    return content, next(o.version for o in proto.opset_import if o.domain == "")


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Do not let torch say which operators of torchvision it will not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def run_onnx(content: bytes, examples: Sequence[Any]) -> list[list[Tensor]]:
    """Outputs of an ONNX file on examples, one or more, on the CPU.

    Raises:
        ValueError: If onnxruntime cannot run it.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        return [
            [
                torch.from_numpy(output)
                for output in session.run(
                    None,
                    {n: t.detach().cpu().numpy() for n, t in zip(names, tensors_in(given), strict=True)},
                )
            ]
            for given in examples
        ]
    except Exception as error:  # its errors are of no common class; NumPy's are of what it cannot be given
        dtype = next(tensors_in(examples[0])).dtype
        raise ValueError(
            f"export: model on {dtype} expected to run in onnxruntime, got {error_line(error)}; "
            "verify=False writes it unchecked"
        ) from error


def to_pt2(program: ExportedProgram, metadata: str) -> bytes:
    """A file of `torch.export.save`, with what was folded.

    Raises:
        ValueError: If torch has no way to store it, as a named tuple that the model takes or returns.
    """
    buffer = io.BytesIO()
    try:
        torch.export.save(program, buffer, extra_files={"batchnorm.fold": metadata})
    except Exception as error:
        raise ValueError(
            f"export: model expected to be storable by torch.export, got {first_line(error)}"
        ) from error
    return buffer.getvalue()


def run_pt2(content: bytes, examples: Sequence[Any]) -> list[list[Tensor]]:
    """Outputs of a file of `torch.export.save` on examples.

    Raises:
        ValueError: If torch cannot load it, or it does not take an example.
    """
    try:
        module = torch.export.load(io.BytesIO(content)).module()
        return [outputs_of(module, given) for given in examples]
    except Exception as error:  # what a program expects of its input is an assertion
        raise ValueError(f"export: model expected to run from its file, got {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Kind and first words of an error, without colours."""
    words = _COLOURS.sub("", str(error)).strip()
    return f"{type(error).__name__}: {words.splitlines()[0]}" if words else type(error).__name__


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
