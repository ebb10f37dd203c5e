"""The kernel on this device gives wrong numbers, or none, for a layer's input as it is.

Reported were more than 65535 rows and channels-last inputs in half precision on cuDNN, more than 2³¹
elements, and sliced inputs on Apple's GPUs. Each was mended in some version, so that no list of versions
tells: a probe does.

Found by: every layer's own forward in prediction mode, on the input that the network gives it with its shape,
dtype and layout, against float64. The tolerance is eight roundings of the largest term in a channel.

Severity: error.

Fix: this package's layers (`batchnorm.convert`), or the layer folded or written as multiply and add.

Mistaken for it: differences of rounding; statistics that are not finite, which is BN002; inputs far from
their mean, BN031.

Reports: NF-05, EX-09, DT-06, SY-04, NU-04, NU-05, NU-06, NU-07, NU-10.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from batchnorm.doctor.layer import Layer
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"

ROUNDINGS = 8
VALUES = 2**18  # compared at both ends of the batch, where faults of long batches show; a row at least
FIX = advice("batchnorm.convert(model): layers with kernels of our own, on any device")


def check(patient: Patient) -> Iterator[Finding]:
    """Every layer on its own input."""
    findings: list[Finding] = []
    seen: set[str] = set()

    def probe(name: str, input: Tensor) -> None:
        layer = patient.by_name[name]
        if name not in seen and _is_plain(layer, input):
            seen.add(name)
            findings.extend(_judge(layer, input))

    patient.look(probe)
    yield from findings


def _is_plain(layer: Layer, input: Tensor) -> bool:
    return (
        layer.kind in ("batch", "sync")
        and layer.mean is not None
        and layer.mean.shape == input.shape[1:2]
        and layer.only_normalizes
        and getattr(layer.module, "channel_dim", 1) == 1
    )


def _judge(layer: Layer, input: Tensor) -> Iterator[Finding]:
    module = layer.module
    assert module is not None
    about = f"an input of shape {tuple(input.shape)}, {input.dtype}, strides {input.stride()}"
    evidence: dict[str, float | str] = {"shape": str(tuple(input.shape)), "device": input.device.type}
    module.eval()  # the model is lent, and in training mode again for the rest of the forward
    try:
        output = module.forward(input)  # without the hooks that watch
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        yield found("error", layer.name, f"In prediction it fails on {about}: {first}", FIX, evidence)
        return
    finally:
        module.train(layer.training)
    worst = _worst(layer, input, output)
    if worst > ROUNDINGS:
        yield found(
            "error",
            layer.name,
            f"In prediction its output is {worst:.2g} roundings off the right one on {about}.",
            FIX,
            {**evidence, "roundings": worst},
        )


def _worst(layer: Layer, input: Tensor, output: Tensor) -> float:
    """Largest error in roundings of the output's dtype; 0 where the right value is not finite."""
    assert layer.mean is not None
    assert layer.var is not None
    assert layer.eps is not None
    shape = [1, -1] + [1] * (input.dim() - 2)

    def channel(values: Tensor | None, default: float) -> Tensor:
        kept = torch.full_like(layer.mean, default) if values is None else values  # type: ignore[arg-type]
        return kept.detach().cpu().double().view(shape)

    x, y = _ends(input), _ends(output)
    gain = channel(layer.weight, 1.0) / (channel(layer.var, 1.0) + layer.eps).sqrt()
    mean, bias = channel(layer.mean, 0.0), channel(layer.bias, 0.0)
    right = (x - mean) * gain + bias
    scale = (x.abs() + mean.abs()) * gain.abs() + bias.abs() + torch.finfo(torch.float32).tiny
    off = (y - right).abs() / (scale * torch.finfo(output.dtype).eps)
    return float(torch.where(right.isfinite(), off.nan_to_num(nan=torch.inf), 0.0).max())


def _ends(values: Tensor) -> Tensor:
    rows = max(1, VALUES // max(1, values[0].numel()))
    ends = values if len(values) <= 2 * rows else torch.cat([values[:rows], values[-rows:]])
    return ends.detach().cpu().double()
