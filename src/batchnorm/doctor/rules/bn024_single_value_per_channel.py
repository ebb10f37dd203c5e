"""A training batch leaves one value per channel, which has no variance.

torch raises "Expected more than 1 value per channel when training", usually in the last batch of the
first epoch; operators below that check, and traced modules, write NaN into the running variance.

Found by: the number of samples that the loader draws modulo its batch size is 1 without ``drop_last``, also
when split over ``replicas`` or into ghost batches; or a forward with one value per channel, for GroupNorm per
group.

Severity: error.

Fix: ``drop_last=True`` in the training loader, or a sampler that merges the tail; another batch size where
every batch is at fault. On a 1×1 map after global pooling no batch size of 1 works: replace that layer. An
actor that takes single observations must act in prediction mode.

Mistaken for it: evaluation loaders; a batch of one image with spatial size above one.

Reports: B1-01, B1-02, B1-03, B1-04, B1-06, B1-08, B1-09, B1-12, AP-11.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.data import IterableDataset

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"

TAIL = advice("drop_last=True in the training loader, or a batch sampler that merges the tail")
EVERY = advice(
    "another batch size: drop_last=True helps nothing where every batch is at fault; where one sample is all "
    "there is, another layer in its place, or prediction mode"
)


def check(patient: Patient) -> Iterator[Finding]:
    """The loader's sizes, then what a forward shows."""
    sizes = loader_sizes(patient.loader)
    trains = [layer for layer in patient.layers if layer.normalizes_batches and layer.kind != "foreign"]
    by_size = list(_by_size(patient, *sizes)) if sizes and trains else []
    # A forward knows whether the layers see maps, where one image is enough.
    examined = patient.training
    flat = any(
        call.moments is not None and call.moments.count <= call.moments.items
        for batch in examined.batches
        for call in batch
    )
    if flat and not examined.refused:
        yield from by_size
    for layer, shape in examined.refused.items():
        yield found(
            "error",
            layer,
            f"An input of shape {shape} in training mode has one value per channel and no variance.",
            TAIL if examined.batches else EVERY,
            {"shape": str(shape)},
        )
    yield from _groups(patient)


def loader_sizes(loader: Any) -> tuple[int, int] | None:
    """Samples and batch size of a training loader; None if unknown or its tail is dropped."""
    if getattr(loader, "drop_last", True) or not isinstance(getattr(loader, "batch_size", None), int):
        return None
    data = getattr(loader, "dataset", getattr(loader, "images", None))
    if not isinstance(data, IterableDataset):
        data = getattr(loader, "sampler", None) or data
    try:
        return len(data), loader.batch_size  # type: ignore[arg-type]
    except TypeError:
        return None


def _by_size(patient: Patient, samples: int, batch: int) -> Iterator[Finding]:
    tail = samples % batch or batch
    for size in dict.fromkeys((min(batch, samples), tail)):
        for parts, what in (
            (patient.settings.replicas, "replicas"),
            *((math.ceil(size / ghost), "ghost batches") for ghost in _ghosts(patient)),
        ):
            # Data are split as torch.chunk does: all parts of one size but the last.
            share = math.ceil(size / parts)
            last = size - share * (math.ceil(size / share) - 1)
            if last == 1:
                where = "" if parts == 1 else f", of which one of {parts} {what} gets one"
                yield found(
                    "error",
                    None,
                    f"{samples} samples in batches of {batch} make a batch of {size}{where}: one value per "
                    "channel has no variance.",
                    TAIL if size < batch < samples else EVERY,
                    {"samples": float(samples), "batch_size": float(batch), "parts": float(parts)},
                )
                return


def _ghosts(patient: Patient) -> list[int]:
    """Sizes of ghost batches by the usual name; this package's `Ghost` cuts evenly and is never at fault."""
    assert patient.model is not None
    sizes = (getattr(module, "virtual_batch_size", None) for module in patient.model.modules())
    return sorted({size for size in sizes if isinstance(size, int) and size > 0})


def _groups(patient: Patient) -> Iterator[Finding]:
    """GroupNorm with one value per group returns its bias, whatever it is given."""
    assert patient.model is not None
    groups = {name: m for name, m in patient.model.named_modules() if isinstance(m, nn.GroupNorm)}
    shapes: dict[str, tuple[int, ...]] = {}
    if not groups:
        return
    with patient.lent() as loan:
        loan.train()
        handles = []
        for name, module in groups.items():

            def before(module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                shapes[name] = tuple(args[0].shape)

            handles.append(module.register_forward_pre_hook(before))
        try:
            with contextlib.suppress(ValueError):  # of a batch norm with one value, which is said already
                patient.forward(patient.model, patient.first_batch)
        finally:
            for handle in handles:
                handle.remove()
    for name, shape in shapes.items():
        if math.prod(shape[1:]) == groups[name].num_groups:
            yield found(
                "error",
                name,
                f"GroupNorm has one value per group for an input of shape {shape}: its output is its bias, "
                "whatever the input.",
                advice(f"GroupNorm(num_groups=1, num_channels={groups[name].num_channels})"),
                {"shape": str(shape)},
            )
