"""The checkpoint that was loaded lacks statistics, weights or whole layers of the model.

A load with ``strict=False`` passes in silence; the layers keep mean 0, variance 1 and weight 1. The
usual causes are a file of parameters alone, keys under another prefix, and a folded file, whose batch
norm has become a bias of the convolution before it.

Found by: the keys of every layer, against those of the checkpoint given as ``checkpoint``.

Severity: error.

Fix: if the file has all of them under one other prefix, it is loaded under the model's names; otherwise find
the right file. A folded file belongs into a folded network.

Mistaken for it: a head that was made anew on purpose, named in ``made_anew``; layers that keep no
statistics; missing counters alone, which is BN006.

Reports: B1-05, CK-04, CK-05, CK-07, IN-08.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.layers import layers_of_model
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found, safe
from batchnorm.doctor.settings import belongs
from batchnorm.records import Finding
from batchnorm.targets import unwrapped

EVIDENCE = "C"
RANK = 2
FIXES = ("safe", "advice")


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer's keys."""
    given = patient.settings.checkpoint
    if patient.model is None or given is None:
        return
    own = patient.model.state_dict()
    keys = set(unwrapped(given, own))
    expected = [layer for layer in patient.layers if not belongs(layer.name, patient.settings.made_anew)]
    missing = {layer.name: lacking for layer in expected if (lacking := _lacking(layer, keys))}
    if not missing:
        return
    wanted = [key for layer in expected for key in _keys(layer)]
    share = 1 - sum(map(len, missing.values())) / len(wanted)
    biases = [key for key in keys if key.endswith("bias") and key not in own]
    cure = advice("load the file that belongs to this model, with its prefix of names taken off")
    if names := _other_names(given, own, wanted):
        if all(torch.equal(own[key], given[name]) for key, name in names.items() if key in wanted):
            return  # whoever loaded it knew
        cure = safe(f"load the file under the model's names: {names[wanted[0]]} as {wanted[0]}")
    elif all(
        key.endswith(("running_mean", "running_var")) for lacking in missing.values() for key in lacking
    ):
        cure = advice("it holds parameters alone, as from named_parameters(): save state_dict()")
    elif biases:
        cure = advice(
            f"it was folded: it has biases as {biases[0]} that the model lacks; load it into a folded model"
        )
    for name, lacking in missing.items():
        yield found(
            "error",
            name,
            f"The checkpoint lacks {', '.join(key.rsplit('.', 1)[-1] for key in lacking)}: the layer keeps "
            "the values it was made with.",
            cure,
            {"share_loaded": share},
        )


def mend(repair: Repair, finding: Finding) -> str:
    """Load the file, whole, under the model's names."""
    given, own = repair.settings.checkpoint, repair.model.state_dict()
    assert given is not None
    anew = repair.settings.made_anew
    layers = [layer for layer in layers_of_model(repair.model) if not belongs(layer.name, anew)]
    names = _other_names(given, own, [key for layer in layers for key in _keys(layer)])
    repair.model.load_state_dict({key: given[name] for key, name in names.items()}, strict=False)
    return f"{len(names)} tensors of the file loaded under the model's names"


def _other_names(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], wanted: Iterable[str]
) -> dict[str, str]:
    """The file's names by the model's, if one prefix more or less finds all that is wanted; else none."""
    first, *_ = wanted
    longer = {name.removesuffix(first) for name in given if name.endswith(f".{first}")}
    shorter = {first.removesuffix(name) for name in given if first.endswith(f".{name}")}
    maps = [{key: prefix + key for key in own} for prefix in longer]
    maps += [{key: key.removeprefix(prefix) for key in own} for prefix in shorter]
    found = [
        {key: name for key, name in names.items() if name in given and given[name].shape == own[key].shape}
        for names in maps
    ]
    complete = [names for names in found if set(wanted) <= names.keys()]
    return complete[0] if len(complete) == 1 else {}


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
