"""The checkpoint that was loaded lacks statistics, weights or whole layers of the model.

A load with ``strict=False`` passes in silence; the layers keep mean 0, variance 1 and weight 1. The
usual causes are a file of parameters alone, keys under another prefix, and a folded file, whose batch
norm has become a bias of the convolution before it.

Found by: the keys of every layer, against those of the checkpoint given as ``checkpoint``.

Severity: error.

Fix: if all keys are there under one prefix, load them without it; otherwise find the right file. A
folded file belongs into a folded network.

Mistaken for it: a head that was made anew on purpose; layers that keep no statistics; missing counters
alone, which is BN006.

Reports: B1-05, CK-04, CK-05, CK-07, IN-08.
"""

from collections.abc import Iterator

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding
from batchnorm.targets import unwrapped

EVIDENCE = "C"
RANK = 2


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's keys."""
    given = patient.settings.checkpoint
    if patient.model is None or given is None:
        return
    own = patient.model.state_dict().keys()
    keys = set(unwrapped(given, own))
    missing = {layer.name: lacking for layer in patient.layers if (lacking := _lacking(layer, keys))}
    if not missing:
        return
    wanted = [key for layer in patient.layers for key in _keys(layer)]
    share = 1 - sum(map(len, missing.values())) / len(wanted)
    biases = [key for key in keys if key.endswith("bias") and key not in own]
    if all(key.endswith(("running_mean", "running_var")) for lacking in missing.values() for key in lacking):
        why = "it holds parameters alone, as from named_parameters(): save state_dict()"
    elif biases:
        why = f"it was folded: it has biases as {biases[0]} that the model lacks; load it into a folded model"
    else:
        why = "load the file that belongs to this model, with its prefix of names taken off"
    for name, lacking in missing.items():
        yield found(
            "error",
            name,
            f"The checkpoint lacks {', '.join(key.rsplit('.', 1)[-1] for key in lacking)}: the layer keeps "
            "the values it was made with.",
            advice(why),
            {"share_loaded": share},
        )


def _keys(layer: Layer) -> list[str]:
    tensors = {
        "weight": layer.weight,
        "bias": layer.bias,
        "running_mean": layer.mean,
        "running_var": layer.var,
    }
    prefix = f"{layer.name}." if layer.name else ""
    return [prefix + key for key, value in tensors.items() if value is not None]


def _lacking(layer: Layer, keys: set[str]) -> list[str]:
    return [key for key in _keys(layer) if key not in keys]
