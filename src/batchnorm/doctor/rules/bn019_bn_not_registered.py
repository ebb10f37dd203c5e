"""A batch norm runs, or should train, but is unknown to the module tree or the optimizer.

Made inside ``forward`` it is new at every call; in a plain list or dict the module tree does not see it.
Either way it is never trained, never saved and always in training mode.
Converted after the optimizer was built, the optimizer goes on training parameters that are gone.

Found by: batch norms that normalize with the batch during the model's forward but are not in its tree;
trainable weights that are in no group of ``optimizer``, which may be a list of all there are.

Severity: error.

Fix: make layers in ``__init__``, as attributes or in an ``nn.ModuleList`` or ``nn.ModuleDict``; build the
optimizer after every conversion.

Mistaken for it: weights that need no gradient, left out on purpose; lazy layers before their first call;
another network that runs beside the model, or a hidden one in prediction mode, as a teacher.

Reports: SY-14, MK-05.
"""

from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "S"


def check(patient: Patient) -> Iterator[Finding]:
    """Strangers, then the optimizer's list."""
    for line, name in patient.training.strangers.items() if patient.has_data else ():
        yield found(
            "error",
            None,
            f"A {name} that is not part of the model runs in its forward ({line}): made there, or kept in a "
            "plain list or dict, it is never trained and never saved.",
            advice("make it in __init__, as an attribute or in an nn.ModuleList or nn.ModuleDict"),
            {"layer": name},
        )
    if patient.settings.optimizer is None or patient.model is None:
        return
    held = patient.held
    own = {id(p) for p in patient.model.parameters()}
    gone = sum(key not in own for key in held)
    for layer in patient.layers:
        assert layer.module is not None
        lost = [key for key, p in layer.module.named_parameters(recurse=False) if p.requires_grad]
        lost = [key for key in lost if id(layer.module.get_parameter(key)) not in held]
        if lost:
            why = (
                f"; it holds {gone} parameters that the model does not have: it was built before a conversion"
                if gone
                else ""
            )
            yield found(
                "error",
                layer.name,
                f"{' and '.join(lost)} need gradients but are in no group of the optimizer{why}.",
                advice(
                    "build the optimizer after the model is complete, or freeze them with "
                    "requires_grad_(False)"
                ),
                {"gone": float(gone)},
            )
