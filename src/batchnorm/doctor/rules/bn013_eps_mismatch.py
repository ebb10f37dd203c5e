"""eps is not what the weights were trained with, or is out of proportion to the variances.

eps is in no state dict. A model that is rebuilt with the default loads without a word, and its outputs
are off by a factor √((var + eps) / (var + other eps)), which matters where variances are small.

Found by: eps against ``source_eps``, where the weights come from; without it, layers whose eps is not
that of most layers, eps below 1e-8, and eps above a tenth of the median variance. The impact is the largest
change of a channel's output by the other eps.

Severity: error if the impact of a declared eps is above 1 %; info otherwise.

Fix: set eps to the source's. Families: Keras and MXNet 1e-3; PyTorch, Caffe and Flax 1e-5.

Mistaken for it: backbone and head with another eps on purpose; variances far above eps, where it does
nothing.

Reports: MO-08, EP-01, EP-02, EP-03, EP-06, EP-07, EP-08, EP-09.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from batchnorm.doctor.gap import Gaps
from batchnorm.doctor.guard import Loan
from batchnorm.doctor.layer import Layer, plain
from batchnorm.doctor.layers import layers_of_model
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, consent, found
from batchnorm.doctor.settings import Settings
from batchnorm.records import Finding

EVIDENCE = "C"
RANK = 5
FIXES = ("consent", "advice")

ERROR_IMPACT = 0.01
TINY = 1e-8
SHARE = 0.1  # of the median variance


def check(patient: Patient) -> Iterator[Finding]:
    """Against the source, against the other layers, against the variances."""
    layers = [layer for layer in patient.layers if layer.eps is not None and layer.var is not None]
    usual = _usual(layers)
    for layer in layers:
        declared = _declared(patient.settings, layer.name)
        assert layer.eps is not None
        assert layer.var is not None
        if declared is not None:
            if declared != layer.eps:
                yield _against(layer, declared, "the weights come from")
            continue
        if usual != layer.eps:
            finding = _against(layer, usual, "most layers here have")
            yield found("info", layer.name, finding.message, finding.fix, finding.evidence)
        elif layer.eps < TINY:
            yield found(
                "info",
                layer.name,
                f"eps {layer.eps:g} is so small that a constant channel is divided by nearly 0.",
                advice("eps 1e-5"),
                {"eps": layer.eps},
            )
        elif layer.is_without_variance():
            continue  # BN002
        elif (median := float(plain(layer.var).median())) * SHARE < layer.eps:
            yield found(
                "info",
                layer.name,
                f"eps {layer.eps:g} is more than a tenth of the median variance {median:.2g}: outputs depend "
                "on eps, so it must travel with the weights.",
                advice("keep eps beside the weights; scale the inputs up if they are tiny by accident"),
                {"eps": layer.eps, "median_var": median},
            )


def left(patient: Patient) -> Gaps:
    """With the source's eps throughout: a layer's own does not move its statistics, but its output's."""
    given = {name: _declared(patient.settings, name) for name in patient.by_name}
    declared = {name: eps for name, eps in given.items() if eps is not None}

    def prepare(loan: Loan) -> None:
        loan.train()
        for name, eps in declared.items():
            vars(loan.model.get_submodule(name))["eps"] = eps

    right = {name: dataclasses.replace(patient.by_name[name], eps=eps) for name, eps in declared.items()}
    return patient.gaps_in(patient.run(prepare), {**patient.by_name, **right})


def mend(repair: Repair, finding: Finding) -> str:
    """Set the other eps."""
    layer = repair.layer(finding.layer)
    other = _declared(repair.settings, finding.layer)
    if other is None:
        other = _usual(layers_of_model(repair.model))
    before = float(layer.get_buffer("eps")) if "eps" in layer._buffers else float(vars(layer)["eps"])
    vars(layer)["eps"] = other
    return f"eps {before:g} is now {other:g}"


def _declared(settings: Settings, layer: str | None) -> float | None:
    given = settings.source_eps
    return given.get(layer or "") if isinstance(given, Mapping) else given


def _usual(layers: Iterable[Layer]) -> float:
    """The eps of most layers; NaN if none has one."""
    return max(
        counts := Counter(layer.eps for layer in layers if layer.eps is not None),
        key=counts.__getitem__,
        default=math.nan,
    )


def _against(layer: Layer, other: float, whose: str) -> Finding:
    assert layer.eps is not None
    assert layer.var is not None
    var = plain(layer.var)
    impact = float((((var + layer.eps) / (var + other)).sqrt() - 1).abs().max())
    return found(
        "error" if impact > ERROR_IMPACT else "info",
        layer.name,
        f"eps is {layer.eps:g} where {whose} {other:g}: outputs differ by up to {impact:.2%}.",
        consent(f"eps {other:g}"),
        {"eps": layer.eps, "source_eps": other, "impact": impact},
    )
