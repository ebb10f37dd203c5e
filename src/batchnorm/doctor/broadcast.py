"""What `DistributedDataParallel` does to buffers at the start of a forward."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["broadcast", "broadcasting"]


def broadcasting(model: nn.Module) -> list[DistributedDataParallel]:
    """The wrappers in a model that overwrite every process's buffers with rank 0's."""
    return [m for m in model.modules() if isinstance(m, DistributedDataParallel) and m.broadcast_buffers]


def broadcast(wrapper: DistributedDataParallel) -> None:
    """Do it now; all processes at once. The model is lent, since buffers change."""
    wrapper._sync_buffers()  # type: ignore[no-untyped-call]
