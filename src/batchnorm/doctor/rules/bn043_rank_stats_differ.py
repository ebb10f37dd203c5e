"""Processes that train together hold different running statistics.

Each process sees its own data. A wrapper that broadcasts buffers makes rank 0's win, otherwise none do;
an evaluation or a checkpoint then depends on which rank makes it.

Found by: the largest distance between the ranks' running means in standard deviations, after the broadcast of
a wrapper that makes one. Within one process, a layer inside ``DataParallel``, whose replicas' statistics are
lost but for the first.

Severity: warn; error before evaluation or saving, that is in prediction mode or with a ``goal`` other than
``train``.

Fix: synchronized statistics, or pool mean, variance and count over ranks before evaluation and saving.

Mistaken for it: between two broadcasts a difference of one update is normal: 0.98 for ranks ten apart.

Reports: DD-01, DD-02, DD-05, DD-07, DD-09.
"""

from collections.abc import Iterator

import torch
from torch import distributed, nn

from batchnorm.doctor.broadcast import broadcast, broadcasting
from batchnorm.doctor.layer import plain
from batchnorm.doctor.layers import layers_of_model
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "S"

NORMAL = 0.5  # standard deviations
FIX = advice("batchnorm.convert(model, stats=Synced()), or pool the statistics before saving")


def check(patient: Patient) -> Iterator[Finding]:
    """The ranks, then DataParallel."""
    assert patient.model is not None
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        yield from _ranks(patient)
    for name, module in patient.model.named_modules():
        if isinstance(module, nn.DataParallel) and any(layer.kind == "batch" for layer in patient.layers):
            yield found(
                "warn",
                None,
                f"Batch norm inside DataParallel ({name or 'the model'}): every replica normalizes its own "
                "part of the batch, and only the first replica's statistics are kept.",
                FIX,
            )


def _ranks(patient: Patient) -> Iterator[Finding]:
    assert patient.model is not None
    with patient.lent():
        for wrapper in broadcasting(patient.model):
            broadcast(wrapper)
        values = {
            layer.name: (plain(layer.mean), plain(layer.var))
            for layer in layers_of_model(patient.model)
            if layer.mean is not None and layer.var is not None
        }
    settled = not patient.model.training or patient.settings.goal not in (None, "train")
    world: list[dict[str, tuple[torch.Tensor, torch.Tensor]] | None]
    world = [None] * distributed.get_world_size()
    distributed.all_gather_object(world, values)
    for name in values:
        means = torch.stack([rank[name][0] for rank in world if rank is not None and name in rank])
        deviation = torch.stack([rank[name][1] for rank in world if rank is not None and name in rank])
        spread = float(((means.amax(0) - means.amin(0)) / (deviation.mean(0) + 1e-12).sqrt()).max())
        if spread > NORMAL:
            yield found(
                "error" if settled else "warn",
                name,
                f"The running means of {len(world)} ranks are up to {spread:.2g} standard deviations apart.",
                FIX,
                {"apart": spread},
            )
