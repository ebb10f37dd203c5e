"""An exported graph holds a batch norm that normalizes with the batch, or one without statistics.

A trace and `torch.export` bake the mode in: ``eval()`` on the result changes nothing. The two ONNX
exporters of torch handle a model in training mode rightly.

Found by: the graph of a ScriptModule, an ExportedProgram or an ONNX model: training mode, no running
statistics among the inputs, or an eps other than ``source_eps``. Before an export, with
``goal="export"``: layers in training mode. In quantization-aware training: layers in training mode that were
fused with no convolution.

Severity: error; info before an export, unless momentum is None, which `torch.export` refuses in training mode
and ONNX cannot express.

Fix: ``model.eval()``, export again, and compare the outputs of both; running statistics first where there are
none. In quantization-aware training fuse, or freeze late.

Mistaken for it: a training export on purpose.

Reports: MO-06, MO-08, EX-01, EX-02, EX-03, EX-04, EX-05, EX-06, EX-07.
"""

from collections.abc import Iterable, Iterator

from torch import nn

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "C"

FUSE = advice("fuse it with the convolution before it, or put it into prediction mode late in training")
KEEP = advice("make the model's layers keep running statistics (BN014), and export again")
AGAIN = advice("model.eval(), export again, compare the outputs of model and export on real data")


def check(patient: Patient) -> Iterator[Finding]:
    """The exported graph, or the model that will be exported."""
    declared = patient.settings.source_eps
    for norm in patient.exported:
        if not norm.has_statistics:
            yield found(
                "error",
                norm.name,
                f"The {norm.format} graph has no running statistics: a sample's output depends on its batch.",
                KEEP,
            )
        elif norm.training:
            yield found(
                "error",
                norm.name,
                f"The {norm.format} graph normalizes with the batch, whatever eval() says: it was exported "
                "in training mode.",
                AGAIN,
            )
        elif (
            isinstance(declared, float)
            and norm.eps is not None
            and abs(norm.eps - declared) > 1e-3 * declared
        ):
            yield found(
                "error",
                norm.name,
                f"The {norm.format} graph has eps {norm.eps:g} where the weights come from {declared:g}.",
                AGAIN,
                {"eps": norm.eps, "source_eps": declared},
            )
    if patient.settings.goal == "export":
        yield from _before(patient)
    if patient.model is not None:
        yield from _unfused(patient.model, patient.layers)


def _before(patient: Patient) -> Iterator[Finding]:
    for layer in patient.layers:
        if layer.training and layer.mean is not None:
            named = layer.momentum is not None
            why = (
                "a trace or torch.export would bake that in"
                if named
                else "with momentum None torch.export refuses it, and ONNX has no word for it"
            )
            message = f"In training mode before an export: {why}."
            yield found("info" if named else "error", layer.name, message, AGAIN)


def _unfused(model: nn.Module, layers: Iterable[Layer]) -> Iterator[Finding]:
    """Layers that quantization-aware training runs as they are, beside convolutions with rounded weights."""
    if not any("FakeQuantize" in type(module).__name__ for module in model.modules()):
        return
    for layer in layers:
        parent = model.get_submodule(layer.name.rpartition(".")[0])
        if layer.training and not hasattr(parent, "weight_fake_quant"):
            yield found(
                "error",
                layer.name,
                "In quantization-aware training without a convolution that it was fused with: it normalizes "
                "with the batch, and the quantized network will not.",
                FUSE,
            )
