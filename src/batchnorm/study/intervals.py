"""Means with 95 % intervals over seeds."""

import functools
import math
import statistics
from collections.abc import Sequence

__all__ = ["mean_interval", "t_quantile"]

LEVEL = 0.95


@functools.cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t that Student's distribution exceeds in absolute value with probability 1 − ``level``.

    Args:
        freedom: Degrees of freedom, 1 or more.
        level: Between 0 and 1.

    References:
        Abramowitz & Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4: the
        probability in closed form, here solved for the angle by bisection.

    Example:
        >>> round(t_quantile(2), 3), round(t_quantile(9), 3)
        (4.303, 2.262)
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _inside(angle: float, freedom: int) -> float:
    """Probability that |t| stays below √freedom · tan(angle)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range((freedom - odd) // 2):
        total += term
        k = 2 * step + 1 + odd
        term *= square * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, lower and upper end of the t interval; one value alone is known to nobody: ±∞.

    Args:
        values: One a seed, at least one.

    Example:
        >>> [round(x, 2) for x in mean_interval([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half
