"""Batch norms in an exported program, where the mode is baked in."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["ExportedNorm", "exported_norms", "is_exported", "state_of"]


@dataclasses.dataclass(frozen=True)
class ExportedNorm:
    """One batch norm of an exported graph.

    Attributes:
        name: Of its node.
        training: Whether it normalizes with the batch whatever ``eval()`` is asked for.
        has_statistics: Whether running statistics are among its inputs.
        eps: As written in the graph; None if it is not constant.
        format: ``torch.jit``, ``torch.export`` or ``onnx``.
    """

    name: str
    training: bool
    has_statistics: bool
    eps: float | None
    format: str


def is_exported(model: object) -> bool:
    """Whether it is a ScriptModule, an ExportedProgram or an ONNX model."""
    return (
        isinstance(model, torch.jit.ScriptModule | torch.export.ExportedProgram)
        or type(model).__name__ == "ModelProto"
    )


def exported_norms(model: Any) -> tuple[ExportedNorm, ...]:
    """The batch norms of an exported model."""
    if isinstance(model, torch.jit.ScriptModule):
        return tuple(_script(model))
    if isinstance(model, torch.export.ExportedProgram):
        return tuple(_program(model))
    return tuple(_onnx(model))


def state_of(model: Any) -> Mapping[str, Tensor]:
    """Its tensors by name; of an ONNX model none."""
    if isinstance(model, torch.jit.ScriptModule):
        return model.state_dict()
    if isinstance(model, torch.export.ExportedProgram):
        return {key: value for key, value in model.state_dict.items() if isinstance(value, Tensor)}
    return {}


def _script(model: torch.jit.ScriptModule) -> Iterator[ExportedNorm]:
    graph: Any = model.inlined_graph  # torch's stub of it is empty; and it must outlive its nodes
    for number, node in enumerate(graph.findAllNodes("aten::batch_norm")):
        inputs = list(node.inputs())
        scope = node.scopeName().rsplit("__module.", 1)[-1].split("::", 1)[0]
        mean = inputs[3]
        # torch.jit.script reads the mode when it runs; only a trace holds a constant.
        yield ExportedNorm(
            scope or f"batch_norm {number}",
            inputs[5].toIValue() is True,
            mean.node().kind() != "prim::Constant",
            inputs[7].toIValue(),
            "torch.jit",
        )


def _program(program: torch.export.ExportedProgram) -> Iterator[ExportedNorm]:
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        operator = name.split(".", 1)[0]
        if operator in ("batch_norm", "cudnn_batch_norm", "native_batch_norm") or operator.startswith(
            "_native_batch_norm_legit"
        ):
            numbers = [value for value in node.args[3:] if isinstance(value, bool | float)]
            flags = [value for value in numbers if isinstance(value, bool)]
            floats = [value for value in numbers if isinstance(value, float)]
            yield ExportedNorm(
                _scope(node),
                "no_training" not in name and bool(flags and flags[0]),
                any(getattr(value, "op", "") == "placeholder" for value in node.args[3:5]),
                floats[-1] if floats else None,
                "torch.export",
            )


def _scope(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]).removeprefix("L['self'].") if paths else node.name


def _onnx(model: Any) -> Iterator[ExportedNorm]:
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            attributes = {a.name: a for a in node.attribute}
            mode, eps = attributes.get("training_mode"), attributes.get("epsilon")
            yield ExportedNorm(
                node.name or node.output[0],
                mode is not None and bool(mode.i),
                len(node.input) >= 5,
                1e-5 if eps is None else round(float(eps.f), 12),
                "onnx",
            )
