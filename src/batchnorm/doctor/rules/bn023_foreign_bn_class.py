"""A layer looks like batch norm but computes something else.

It has ``running_mean`` and ``running_var`` but its class is none whose arithmetic is known. Converted or
folded as batch norm, the model's outputs change.

Found by: a probe of a copy: eps inside or outside the root or as a maximum, the sign of a negative weight, an
activation built in. Where prediction is torch's, a training step of the copy: another output, or a stored
variance that is biased. A class that computes what torch's does is not reported.

Severity: info; error with ``goal="fold"`` or ``"export"``.

Fix: convert by what the probe says, and compare outputs.

Mistaken for it: instance norm with statistics; the fixed layers of torchvision, detectron2 and timm.

Reports: EP-04, EP-05, VA-01, VA-03, VA-04, VA-06, VA-07, VA-08, CK-08, FO-10, EX-10, DT-05, IN-06.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding
from batchnorm.surgery.copied import copied

EVIDENCE = "S"

VAR = 1e-4  # so small that eps shows
X = 0.01


def check(patient: Patient) -> Iterator[Finding]:
    """Probe every foreign layer."""
    severity = "error" if patient.settings.goal in ("fold", "export") else "info"
    for layer in patient.layers:
        if layer.kind != "foreign" or layer.mean is None:
            continue
        with torch.random.fork_rng(devices=[]):
            differences = probe(layer)
        if differences:
            yield found(
                severity,
                layer.name,
                f"{type(layer.module).__name__} is not torch's batch norm: {'; '.join(differences)}.",
                advice("convert it by what the probe says, never as plain batch norm, and compare outputs"),
                {"class": type(layer.module).__name__},
            )


def probe(layer: Layer) -> list[str]:
    """How a layer differs from torch's batch norm, in prediction or else in training; empty if not."""
    assert layer.module is not None
    module = copied("diagnose", layer.module).cpu().float().eval()
    assert layer.mean is not None
    assert layer.eps is not None
    channels, eps = layer.mean.numel(), layer.eps
    with torch.no_grad():
        for key, value in (("running_mean", 0.0), ("running_var", VAR), ("weight", 1.0), ("bias", 0.0)):
            tensor = getattr(module, key, None)
            if isinstance(tensor, Tensor):
                tensor.fill_(value)
        up = _output(module, channels, X)
        if up is None:
            return ["it does not take (N, C, …), so its arithmetic is unknown"]
        down = _output(module, channels, -X)
        weight = getattr(module, "weight", None)
        flipped = None
        if isinstance(weight, Tensor):
            weight.fill_(-1.0)
            flipped = _output(module, channels, X)
    assert down is not None
    known = {
        "": 1 / math.sqrt(VAR + eps),
        f"eps outside the root, 1 / (√var + {eps:g})": 1 / (math.sqrt(VAR) + eps),
        f"the larger of var and eps, 1 / √max(var, {eps:g})": 1 / math.sqrt(max(VAR, eps)),
    }
    gain = up / X
    how = min(known, key=lambda name: abs(known[name] - gain))
    if abs(known[how] - gain) > 1e-3 * gain:
        how = f"a scale of {gain:.4g} at variance {VAR:g} where torch's has {known['']:.4g}"
    slope = down / -up if up else 1.0
    acts = "" if abs(slope - 1) < 1e-3 else f"an activation: negative outputs are multiplied by {slope:.3g}"
    absolute = ""
    if flipped is not None and not acts and flipped * up > 0:
        absolute = "the size of the weight, whatever its sign"
    return [text for text in (how, acts, absolute) if text] or list(_in_training(module, channels))


@torch.no_grad()
def _in_training(module: nn.Module, channels: int) -> Iterator[str]:
    """A step on the values -1 and 3: mean 1, variance 4, unbiased 8."""
    kept = [getattr(module, key, None) for key in ("running_mean", "running_var", "weight")]
    mean, var, weight = (tensor if isinstance(tensor, Tensor) else torch.empty(channels) for tensor in kept)
    mean.fill_(0.0)
    var.fill_(1.0)
    weight.fill_(1.0)
    try:
        output = module.train()(torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1).expand(2, channels, 1, 1))
    except Exception:  # as `_output`: what cannot be run says nothing
        return
    if not isinstance(output, Tensor) or output.shape != (2, channels, 1, 1):
        return
    high = float(output[1, 0])
    if abs(high - 1) > 1e-2:
        yield f"in training a value one standard deviation above the batch's mean leaves as {high:.4g}, not 1"
    moved = float(mean.flatten()[0])
    stored = 1 + (float(var.flatten()[0]) - 1) / moved if moved else math.nan
    if abs(stored - 4) < 1e-2:
        yield "it stores the biased variance, where torch's has n / (n - 1) times as much"


def _output(module: nn.Module, channels: int, value: float) -> float | None:
    for rank in (4, 2, 3, 5):
        with contextlib.suppress(Exception):  # a foreign forward may refuse a rank by any error
            output = module(torch.full([2, channels] + [1] * (rank - 2), value))
            if isinstance(output, Tensor) and output.shape[:2] == (2, channels):
                return float(output.flatten()[0])
    return None
