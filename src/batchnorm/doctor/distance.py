"""How far apart the inputs of several calls of one layer are."""

import dataclasses
import itertools
from collections.abc import Sequence

from batchnorm.doctor.moments import Moments

__all__ = ["Distance", "apart"]

MEANS, SPREADS = 0.5, 2.0


@dataclasses.dataclass(frozen=True)
class Distance:
    """Between the two calls that are farthest apart, medians over channels.

    Attributes:
        means: In pooled standard deviations.
        spreads: Factor between variances, 1 or more.
    """

    means: float
    spreads: float


def apart(calls: Sequence[Moments]) -> Distance | None:
    """The distance of calls with different inputs; None if there are fewer than two or they agree."""
    pairs = [_between(one, other) for one, other in itertools.combinations(calls, 2)]
    far = Distance(max((p.means for p in pairs), default=0.0), max((p.spreads for p in pairs), default=1.0))
    return far if far.means > MEANS or far.spreads > SPREADS else None


def _between(one: Moments, other: Moments) -> Distance:
    pooled = ((one.var + other.var) / 2).clamp_min(1e-12)
    factor = (one.var.clamp_min(1e-12) / other.var.clamp_min(1e-12)).log().abs().exp()
    return Distance(
        float(((one.mean - other.mean).abs() / pooled.sqrt()).median()),
        float(factor.median()),
    )
