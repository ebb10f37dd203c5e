"""Write a model as ONNX or as a torch.export program, folded and checked."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from batchnorm.nn import BatchNorm2d
from batchnorm.records import write_atomic
from batchnorm.records.record import Record
from batchnorm.surgery.answering import one_at_a_time
from batchnorm.surgery.constants import constants_of, is_norm
from batchnorm.surgery.copied import copied
from batchnorm.surgery.equivalence import check_difference, expect_tolerance, outputs_of, tensors_in
from batchnorm.surgery.fold import FoldReport, expect_predicting, fold
from batchnorm.surgery.formats import first_line, require_onnx, run_onnx, run_pt2, to_onnx, to_pt2
from batchnorm.surgery.modules import runs_forward_of

__all__ = ["FORMATS", "ExportReport", "export"]

FORMATS = (".onnx", ".pt2")

CHECK_BATCH = 3
"""Samples in the random inputs: another number than in the program's example, to check that it may vary."""


@dataclasses.dataclass(frozen=True)
class ExportReport(Record):
    """What was written.

    Attributes:
        path: The file.
        size: Of the file, in bytes.
        opset: Version of the ONNX operators; None for ``.pt2``.
        fold: What folding did; None if batch norm was kept.
        inputs: How many inputs the file was compared on.
        difference: Largest relative difference of its outputs from the model's; None if not compared.
    """

    path: str
    size: int
    opset: int | None
    fold: FoldReport | None
    inputs: int
    difference: float | None = None


def export(
    model: nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    keep_bn: bool = False,
    dynamic_batch: bool = True,
    inputs: Iterable[Any] = (),
    tolerance: float | None = None,
    verify: bool = True,
) -> ExportReport:
    """Write a model for prediction elsewhere: fold it, export it, run the file, compare, then write.

    Args:
        model: In prediction mode, all its modules; not changed.
        example: A tensor, a tuple of arguments or a dict of keyword arguments; axis 0 of each tensor in
            them, also within lists and dicts, is the batch.
        path: Ends in ``.onnx`` or ``.pt2``; what stands there is replaced.
        keep_bn: Do not fold; ONNX then has BatchNormalization nodes in inference form.
        dynamic_batch: Let the number of samples vary; else it is that of the example.
        inputs: More examples to compare on, beside the given one and a random one; of its kind and sizes,
            but for the batch.
        tolerance: Largest relative difference allowed, see `fold`.
        verify: Compare at all.

    Returns:
        What was written. The file says what was folded: ``batchnorm.fold`` in ONNX's metadata, or in the
        extra files of the ``.pt2``, as JSON.

    Raises:
        ValueError: If the model cannot be folded (see `fold`) or exported, the format is unknown, onnxruntime
            cannot run the file (it has no bfloat16, and little float64), or the outputs of the file differ;
            nothing is written then.
        NotInstalledError: If onnx, onnxruntime or onnxscript is missing.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"export: path expected to end in {' or '.join(FORMATS)}, got {path}")
    if path.is_dir():
        raise ValueError(f"export: path expected a file, got the directory {path}")
    if path.suffix == ".onnx":
        require_onnx()
    expect_predicting("export", model)
    for name, module in model.named_modules():
        if getattr(module, "training", False):  # a file would do what `outputs_of` does not, or the reverse
            raise ValueError(f"export: model expected in prediction mode, got {name} in training mode")
    expect_tolerance("export", tolerance)
    first = next(tensors_in(example), None)
    if first is None or not first.numel():
        raise ValueError("export: example expected a tensor with one sample or more, got none")
    report = None
    if keep_bn:
        for name, module in model.named_modules():
            if is_norm(module):
                constants_of(module, name)  # refuses broken statistics, as folding does
        exported = _with_any_kernels(model)
    else:
        exported, report = fold(model, example, tolerance=tolerance if verify else math.inf)
    examples = []
    if verify:
        examples = [example, *(_in_order(given, example) for given in inputs)]
        examples += [_random_like(example, CHECK_BATCH)] if dynamic_batch else []
    metadata = json.dumps(None if report is None else report.to_dict())
    opset = None
    with one_at_a_time():  # torch.export too exchanges methods of all modules
        program = _trace(exported, example, dynamic_batch)
        if path.suffix == ".onnx":
            count = len(outputs_of(model, example))
            content, opset = to_onnx(
                program, count, metadata, optimize=not keep_bn, dynamic_batch=dynamic_batch
            )
        else:
            content = to_pt2(program, metadata)
        run = run_onnx if path.suffix == ".onnx" else run_pt2
        outputs = run(content, examples) if verify else []
    differences = [
        check_difference(
            "export",
            outputs_of(model, given),
            got,
            tolerance,
            again=partial(outputs_of, model, given, seed=1),
        )
        for given, got in zip(examples, outputs, strict=True)
    ]
    write_atomic(path, content)
    return ExportReport(str(path), len(content), opset, report, len(examples), max(differences, default=None))


def _with_any_kernels(model: nn.Module) -> nn.Module:
    """A copy whose layers of ours choose their kernel: where torch.export looks on, torch's operators."""
    model = copied("export", model)
    for module in model.modules():
        if runs_forward_of(module, BatchNorm2d):
            module.backend = "auto"  # type: ignore[assignment]
    return model


def _trace(model: nn.Module, example: Any, dynamic_batch: bool) -> ExportedProgram:
    if dynamic_batch and next(iter(tensors_in(example))).shape[0] < 2:
        example = _random_like(example, 2)  # of one sample torch.export concludes that there is always one
    args, kwargs = _call(example)
    shapes: Any = None
    if dynamic_batch:
        shapes = ShapesCollection()  # type: ignore[no-untyped-call]
        batch = Dim("batch", min=1)
        for tensor in tensors_in(example):
            if tensor.dim():
                shapes[tensor] = {0: batch}
    try:
        with torch.no_grad():
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:
        hint = "; try dynamic_batch=False" if dynamic_batch else ""
        raise ValueError(
            f"export: model expected to be traceable by torch.export, got {first_line(error)}{hint}"
        ) from error


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _in_order(given: Any, example: Any) -> Any:
    """An input with its keyword arguments in the order of the example's: a file knows them by place."""
    if isinstance(given, Mapping) and isinstance(example, Mapping) and given.keys() == example.keys():
        return {key: given[key] for key in example}
    return given


def _random_like(example: Any, batch: int) -> Any:
    """Another input of so many samples; integers may be indices, so they are those of the example."""
    if isinstance(example, Mapping):
        return {key: _random_like(value, batch) for key, value in example.items()}
    if isinstance(example, tuple) and hasattr(example, "_fields"):
        return type(example)(*(_random_like(value, batch) for value in example))
    if isinstance(example, tuple | list):
        return type(example)(_random_like(value, batch) for value in example)
    if not isinstance(example, Tensor) or not example.dim():
        return example
    rows = example[torch.arange(batch) % len(example)]
    if not example.is_floating_point():
        return rows
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows.shape, generator=generator).to(rows)
    return rows.mean() + rows.std() * noise if rows.numel() > 1 else noise
