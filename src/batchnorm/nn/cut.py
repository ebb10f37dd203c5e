"""How a batch is cut into parts with statistics of their own, and which running ones each part moves."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from batchnorm.nn.statistics import Domains, Ghost, PerStep, Rows, Statistics, Synced

__all__ = ["Cut", "cut_batch"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Parts of a batch.

    Attributes:
        sizes: Samples of each part, one part after the other.
        rows: The row of running statistics that each part uses and moves; None if there is one row.
        order: Samples in the order of the parts, (N,); None if they are in it.
    """

    sizes: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    order: Tensor | None = None

    def arranged(self, values: Tensor | None) -> Tensor | None:
        """Values of the samples, in the order of the parts."""
        return values if values is None or self.order is None else values[self.order]

    def restored(self, values: Tensor) -> Tensor:
        """The inverse of `arranged`."""
        return values if self.order is None else values[torch.argsort(self.order)]


def cut_batch(
    stats: Statistics,
    input: Tensor,
    training: bool,
    domain: int | Tensor | None,
    step: int | Sequence[int] | None,
) -> Cut:
    """Cut a batch as its layer's statistics say.

    Args:
        stats: The layer's.
        input: Samples along dimension 0.
        training: Ghost batches are for training only.
        domain: For `Domains`: of all samples, or (N,) of each.
        step: For `PerStep`: of all samples; or the sizes of steps 0, 1, … that lie one after the other,
            as in `torch.nn.utils.rnn.PackedSequence`.

    Raises:
        ValueError: If ``domain`` or ``step`` is missing, not asked for, or out of range.
    """
    # torch.export takes len for a constant
    samples, rows = input.shape[0], stats.find(Rows)
    for name, given, asked in (("domain", domain, Domains), ("step", step, PerStep)):
        if (given is not None) != isinstance(rows, asked):
            wanted = "none without" if given is not None else "one with"
            raise ValueError(f"batch_norm: {name} expected {wanted} {asked.__name__}, got {given!r}")
    if isinstance(rows, Domains):
        assert domain is not None
        return _by_domain(rows.n, domain, samples, everywhere=stats.find(Synced) is not None)
    if isinstance(rows, PerStep):
        assert step is not None
        return _by_step(rows, step, samples)
    ghost = stats.find(Ghost)
    if ghost is None or not training:
        return Cut((samples,))
    return Cut(_ghost_sizes(ghost, samples, input[:1].numel() // max(input.shape[1], 1)))


def _ghost_sizes(ghost: Ghost, samples: int, values: int) -> tuple[int, ...]:
    """Sizes of virtual batches; ``values`` per channel has each sample."""
    # torch.compile cannot trace divmod of a size that varies, torch 2.10's no assignment to an item of a list
    whole, left = samples // ghost.size, samples % ghost.size
    sizes = [ghost.size] * whole
    if left and (not sizes or (ghost.last == "keep" and left * values > 1)):
        sizes.append(left)
    elif left:
        sizes = [*sizes[:-1], ghost.size + left]
    return tuple(sizes) or (0,)


def _by_domain(domains: int, domain: int | Tensor, samples: int, *, everywhere: bool) -> Cut:
    if isinstance(domain, int):
        if not 0 <= domain < domains:
            raise ValueError(f"batch_norm: domain expected 0 to {domains - 1}, got {domain}")
        if not everywhere:
            return Cut((samples,), (domain,))
        # other processes may have other domains: each sends a row for all of them
        return Cut(tuple(samples if d == domain else 0 for d in range(domains)), tuple(range(domains)))
    if domain.shape != (samples,) or domain.is_floating_point() or domain.dtype == torch.bool:
        raise ValueError(
            f"batch_norm: domain expected an integer or {samples} integers, got {tuple(domain.shape)} "
            f"of {domain.dtype}"
        )
    if samples and not 0 <= int(domain.min()) <= int(domain.max()) < domains:
        raise ValueError(
            f"batch_norm: domain expected 0 to {domains - 1}, got {int(domain.min())} to {int(domain.max())}"
        )
    sizes = torch.bincount(domain, minlength=domains).tolist()
    return Cut(tuple(sizes), tuple(range(domains)), torch.argsort(domain, stable=True))


def _by_step(rows: PerStep, step: int | Sequence[int], samples: int) -> Cut:
    first, sizes = (step, [samples]) if isinstance(step, int) else (0, [*step])
    steps, last = range(first, first + len(sizes)), rows.max_steps - 1
    if sum(sizes) != samples:
        raise ValueError(f"batch_norm: step expected sizes of {samples} samples, got {sum(sizes)}")
    if first < 0 or (steps and steps[-1] > last and rows.beyond == "raise"):
        found = steps[-1] if steps else first
        raise ValueError(f"batch_norm: step expected 0 to {last}, the steps of {rows!r}, got {found}")
    if len(sizes) > 1 and steps[-1] > last:
        # later steps share one row, so they are one part
        sizes = [*sizes[:last], sum(sizes[last:])]
    return Cut(tuple(sizes), tuple(min(t, last) for t in steps[: len(sizes)]))
