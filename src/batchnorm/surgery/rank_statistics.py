"""Running statistics of several processes made one, for layers that were trained each with its own."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchnorm.surgery.layers import BatchNorm
from batchnorm.surgery.mixture import mixture

__all__ = ["reduce_running_stats"]


@torch.no_grad()
def reduce_running_stats(model: nn.Module, group: Any = None) -> None:
    """Give every rank the running statistics of all ranks together, in place.

    Layers that are not synchronized see the batches of their own rank only, so the ranks' running
    statistics drift apart, and a checkpoint of one rank knows nothing of the others' data. Every rank
    counts the same here: the mean becomes the mean of the ranks' means, the variance the mean of their
    variances plus the variance of their means. ``num_batches_tracked`` becomes the largest of the
    ranks'. Afterwards all ranks hold equal buffers.

    Every rank of the group must call this, with the same layers. One collective call for the whole model.

    Args:
        model: Any; layers of ``torch.nn``, SyncBatchNorm and ours are found.
        group: Process group, of any backend; None for all processes.

    Raises:
        RuntimeError: If ``torch.distributed`` is not initialized.
        ValueError: On every rank, if the ranks' layers differ or there is none with running statistics.

    Differs from torch:
        Averaging buffers, as `torch.nn.parallel.DistributedDataParallel` scripts often do, leaves out
        the variance between ranks.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "reduce_running_stats: group expected torch.distributed to be initialized, got none"
        )
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }
    mine = {name: _values(layer) for name, layer in layers.items()}
    ranks: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, mine, group)
    # Only after the collective: a rank that raised before it would leave the others waiting.
    _expect_agreement(ranks)
    for name, layer in layers.items():
        means, variances, counts = zip(*(rank[name] for rank in ranks), strict=True)
        shape = means[0].shape
        # Per domain or time step the buffers are (n, C); each of the n · C is a mixture of its own.
        mean, var = mixture(torch.stack(means).flatten(1), torch.stack(variances).flatten(1))
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean.view(shape))
        layer.running_var.copy_(var.view(shape))
        if layer.num_batches_tracked is not None and counts[0] is not None:
            layer.num_batches_tracked.copy_(torch.stack(counts).amax(0))


def _values(layer: BatchNorm) -> tuple[Tensor, Tensor, Tensor | None]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    counter = layer.num_batches_tracked
    # On the CPU: another rank may not have this device.
    return (
        layer.running_mean.cpu().double(),
        layer.running_var.cpu().double(),
        None if counter is None else counter.cpu(),
    )


def _expect_agreement(ranks: list[dict[str, tuple[Tensor, Tensor, Tensor | None]]]) -> None:
    if not any(ranks):
        raise ValueError(
            "reduce_running_stats: model expected a batch-norm layer with running statistics, got none"
        )
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        shapes = [tuple(rank[name][0].shape) if name in rank else "no such layer" for rank in ranks]
        for rank, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(
                    f"reduce_running_stats: layer {name or 'itself'!r} expected the same on all ranks, got "
                    f"{shapes[0]} on rank 0 and {shape} on rank {rank}"
                )
