"""What passes between the processes of a group: one collective a pass, and words for when it fails.

Under `torch.compile` the collectives become torch's functional ones, which its graphs can hold.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

__all__ = [
    "Ranks",
    "add_up",
    "agree",
    "gather",
    "group_key",
    "group_name",
    "is_alone",
    "ranks_of",
    "traced_ranks",
]


# what torch raises for a group of a world that is no more, or for something else
_NO_GROUP = (ValueError, RuntimeError, TypeError, AttributeError)


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The processes that share statistics.

    Attributes:
        group: Their process group; None for all processes.
        size: How many they are, 2 or more.
        rank: Which of them this one is.
        layer: The layer that they share the statistics of, as errors name it.
        traced: Use torch's functional collectives, which a compiler can trace.
    """

    group: Any
    size: int
    rank: int
    layer: str
    traced: bool = False


def is_alone(group: Any) -> bool:
    """Whether a group, or for None the world, has one process only."""
    if group is None and not (dist.is_available() and dist.is_initialized()):
        return True
    try:
        return dist.get_world_size(group) == 1
    except _NO_GROUP:
        return False  # `ranks_of` says it


def ranks_of(group: Any, layer: str) -> Ranks | None:
    """The processes of a group; None if there is one only, which has nobody to talk to.

    Args:
        group: A process group, or None for all processes, of which there is one without
            `torch.distributed.init_process_group`.
        layer: As errors name it.

    Raises:
        ValueError: If this process is not in the group, or the group is of a world that is no more.
    """
    if is_alone(group):
        return None
    try:
        size, rank = dist.get_world_size(group), dist.get_rank(group)
    except _NO_GROUP as error:
        raise ValueError(
            f"batch_norm: group of {layer} expected a process group of this world, got {group!r}"
        ) from error
    if rank < 0:
        raise ValueError(f"batch_norm: group of {layer} expected this process among its members, got none")
    return Ranks(group, size, rank, layer)


def group_name(ranks: Ranks) -> str:
    """What `traced_ranks` knows the processes again by."""
    return str(_group(ranks).group_name)


def traced_ranks(name: str) -> Ranks:
    """The processes of a group that a compiled graph knows by its name."""
    group = dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]
    return Ranks(group, dist.get_world_size(group), dist.get_rank(group), "a compiled layer", traced=True)


def group_key(ranks: Ranks) -> int:
    """A number that tells groups apart while they exist."""
    return id(_group(ranks))


def gather(values: Tensor, ranks: Ranks) -> Tensor:
    """The values of all ranks, ``(size, *values.shape)``, by one all-gather; outside autograd."""
    with _naming(ranks):
        if ranks.traced:
            functional = _functional()
            # the name that torch before 2.13 has
            gather_all = getattr(functional, "all_gather_single", None) or functional.all_gather_tensor
            flat: Tensor = gather_all(values.contiguous(), 0, _group(ranks))
            return flat.view(ranks.size, *values.shape)
        result = values.new_empty(ranks.size, *values.shape)
        dist.all_gather(list(result.unbind()), values.contiguous(), ranks.group)
        return result


def add_up(values: Tensor, ranks: Ranks) -> Tensor:
    """The sum over all ranks, the shape of ``values``, by one all-reduce; so is each of its backwards."""
    return cast(Tensor, _AddUp.apply(values, ranks))  # type: ignore[no-untyped-call]


def agree(ranks: Ranks, num_features: int, device: torch.device) -> None:
    """Make sure that all ranks mean the same layer, before a message whose length depends on it.

    Raises:
        ValueError: On every rank, if ``num_features`` is not the same on all of them.
    """
    of_ranks = gather(torch.tensor([num_features], device=device), ranks).flatten().tolist()
    if len(set(of_ranks)) > 1:
        found = ", ".join(map(str, of_ranks))
        raise ValueError(
            f"batch_norm: {ranks.layer} expected the same num_features on all ranks of its group, got {found}"
        )


class _AddUp(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        with _naming(ranks):
            if ranks.traced:
                return cast(Tensor, _functional().all_reduce(values, "sum", _group(ranks)))
            result = values.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(result, group=ranks.group)
            return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return add_up(grad, ctx.ranks), None


def _functional() -> Any:
    # imported late: it costs more than all of ours, and only a compiled model with Synced needs it
    import torch.distributed._functional_collectives as functional

    return functional


def _group(ranks: Ranks) -> Any:
    return dist.group.WORLD if ranks.group is None else ranks.group


@contextlib.contextmanager
def _naming(ranks: Ranks) -> Iterator[None]:
    """Say which layer was at work when a collective fails."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RuntimeError(
            f"batch_norm: {ranks.layer} expected all {ranks.size} ranks of its group to take part in the "
            f"statistics, got on rank {ranks.rank}: {reason}"
        ) from error
