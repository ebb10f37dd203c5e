"""An exported graph holds a batch norm that normalizes with the batch, or one without statistics.

A trace and `torch.export` bake the mode in: ``eval()`` on the result changes nothing. The two ONNX
exporters of torch handle a model in training mode rightly.

Found by: the graph of a ScriptModule, an ExportedProgram or an ONNX model: training mode, no running
statistics among the inputs, or an eps other than ``source_eps``. Before an export, with
``goal="export"``: layers in training mode.

Severity: error; info before an export.

Fix: ``model.eval()``, export again, and compare the outputs of both.

Mistaken for it: a training export on purpose.

Reports: MO-06, MO-08, EX-01, EX-02, EX-03, EX-04, EX-05, EX-06, EX-07.
"""

from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import found, safe
from batchnorm.records import Finding

EVIDENCE = "C"

AGAIN = safe("model.eval(), export again, compare the outputs of model and export on real data")


def check(patient: Patient) -> Iterator[Finding]:
    """The exported graph, or the model that will be exported."""
    declared = patient.settings.source_eps
    for norm in patient.exported:
        if norm.training:
            yield found(
                "error",
                norm.name,
                f"The {norm.format} graph normalizes with the batch, whatever eval() says: it was exported "
                "in training mode.",
                AGAIN,
            )
        elif not norm.has_statistics:
            yield found(
                "error",
                norm.name,
                f"The {norm.format} graph has no running statistics: a sample's output depends on its batch.",
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
        for layer in patient.layers:
            if layer.training and layer.mean is not None:
                yield found(
                    "info",
                    layer.name,
                    "In training mode before an export: a trace or torch.export would bake that in.",
                    AGAIN,
                )
