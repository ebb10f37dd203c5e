"""Batch norms in an exported program, where the mode is baked in."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from batchnorm.targets import Program

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
    """Whether it is a ScriptModule, an ExportedProgram (or the file of one) or an ONNX model."""
    return (
        isinstance(model, torch.jit.ScriptModule | torch.export.ExportedProgram | Program)
        or type(model).__name__ == "ModelProto"
    )


def exported_norms(model: Any) -> tuple[ExportedNorm, ...]:
    """The batch norms of an exported model."""
    if isinstance(model, torch.jit.ScriptModule):
        return tuple(_script(model))
    if isinstance(model, torch.export.ExportedProgram):
        return tuple(_program(model))
    if isinstance(model, Program):
        return tuple(_file(model))
    return tuple(_onnx(model))


def state_of(model: Any) -> Mapping[str, Tensor]:
    """Its tensors by name; of an ONNX model those of batch norms, named as in torch."""
    if isinstance(model, Program):
        return model.state
    if isinstance(model, torch.jit.ScriptModule):
        return model.state_dict()
    if isinstance(model, torch.export.ExportedProgram):
        return {key: value for key, value in model.state_dict.items() if isinstance(value, Tensor)}
    return dict(_onnx_state(model))


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
        if _is_norm(name):
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


def _is_norm(operator: str) -> bool:
    name = operator.split(".", 1)[0]
    exact = ("batch_norm", "cudnn_batch_norm", "native_batch_norm")
    return name in exact or name.startswith("_native_batch_norm_legit")


def _file(program: Program) -> Iterator[ExportedNorm]:
    for node in program.nodes:
        operator = node["target"].removeprefix("torch.ops.aten.")
        if _is_norm(operator):
            arguments = {given["name"]: given["arg"] for given in node["inputs"]}
            # "L__self__,,Net;L__self__norm,norm,BatchNorm2d": the innermost module last
            path = node["metadata"].get("nn_module_stack", "").rsplit(";", 1)[-1].split(",")
            yield ExportedNorm(
                path[1] if len(path) > 1 else node["outputs"][0]["as_tensor"]["name"],
                bool(arguments.get("training", {}).get("as_bool")),
                "as_tensor" in arguments.get("running_mean", {}),
                arguments.get("eps", {}).get("as_float"),
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


def _onnx_state(model: Any) -> Iterator[tuple[str, Tensor]]:
    given = {tensor.name: tensor for tensor in model.graph.initializer if not tensor.external_data}
    if not given:
        return
    from onnx import numpy_helper

    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            name = node.name or node.output[0]
            for key, source in zip(
                ("weight", "bias", "running_mean", "running_var"), node.input[1:], strict=False
            ):
                if source in given:
                    yield f"{name}.{key}", torch.tensor(numpy_helper.to_array(given[source]))
