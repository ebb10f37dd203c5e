"""How far prediction is from training in a layer, measured against what sampling alone explains.

Training normalizes a batch with its own mean and variance, prediction with the running ones. Even for a
healthy layer the two differ, since a batch is a sample. The size of that difference follows from the
scatter of the same batches, so the ratio of the two is 1 in a healthy layer whatever the batch size.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from batchnorm.doctor.layer import NO_VARIANCE, Layer, plain
from batchnorm.doctor.passes import Series

__all__ = [
    "HARMFUL",
    "INFO_RATIO",
    "LEAST_GAP",
    "Gap",
    "Gaps",
    "blown_up",
    "excess_of",
    "gap_of",
    "independence_by_chance",
    "independence_of",
]

INFO_RATIO = 2.0  # from which a gap is worth a word: doctor-rules.md section 4, and docs/doctor.md
LEAST_GAP = 0.1  # standard deviations of the output; a smaller gap does no harm whatever its ratio
EXPLODED, GROWN, OFF = 10.0, 2.0, 1.0  # doctor-rules.md, BN003
HALF, MOST = 0.5, 0.75  # of the channels
HARMFUL = 0.35  # excess of all layers together, from which accuracy suffers: docs/doctor.md


@dataclasses.dataclass(frozen=True, eq=False)
class Gap:
    """Of one layer.

    Attributes:
        gap: ``(C,)``: root mean square of (prediction output − training output) / abs(weight).
        expected: ``(C,)``: the same if running statistics were those of the population.
    """

    gap: Tensor
    expected: Tensor

    @property
    def ratio(self) -> float:
        """Gap over what is expected, the median over channels; NaN if no channel varies."""
        return float((self.gap / self.expected).nanmedian())

    @property
    def worst(self) -> float:
        """Ratio of the worst channel."""
        return float((self.gap / self.expected).nan_to_num(0.0).max())

    @property
    def size(self) -> float:
        """Gap in output standard deviations, the median over channels."""
        return float(self.gap.nanmedian())

    def reaches(self, ratio: float) -> bool:
        """Whether the gap is so many times what sampling explains, and large enough to matter."""
        return self.ratio >= ratio and self.size > LEAST_GAP

    def beyond(self, part: "Gap") -> "Gap":
        """What is left of it without what a part has beyond sampling; independent parts add in squares."""
        known = (part.gap.square() - part.expected.square()).clamp_min(0)
        return Gap((self.gap.square() - known).clamp_min(0).sqrt(), self.expected)


Gaps = Mapping[str, Gap]  # by layer


def gap_of(layer: Layer, series: Series) -> Gap | None:
    """The gap of a layer's stored statistics on some batches; None if it stores none.

    Args:
        layer: With running statistics.
        series: What it was given.

    Numerics:
        In closed form from the batch moments: with s the standard deviations,
        gap² = mean over batches of ((mean_b − running_mean) / s_r)² + var_b (1/s_r − 1/s_b)².
        Expected² = Var(mean_b) / W + Var(log var_b) / 4 + (1 − √((M−1)/M))², W the mean variance
        within batches, M the values per channel: the last for storing the unbiased variance.
    """
    if layer.mean is None or layer.var is None or layer.eps is None or len(series.mean) < 2:
        return None
    mean, var = plain(layer.mean), plain(layer.var)
    if mean.shape != series.mean.shape[1:]:
        return None
    invstd = (var + layer.eps).rsqrt()
    batch_invstd = (series.var + layer.eps).rsqrt()
    square = ((series.mean - mean) * invstd).square()
    square += series.var * (invstd - batch_invstd).square()
    within = series.within + layer.eps
    count = series.count.mean()
    unbiased = (1 - torch.sqrt((count - 1) / count)).square()
    expected = (series.mean.var(0) / within + (series.var + layer.eps).log().var(0) / 4 + unbiased).sqrt()
    varies = series.within > 1e-12 * (1 + series.mean.square().mean(0))
    nan = torch.full_like(expected, torch.nan)
    gap = square.mean(0).sqrt().nan_to_num(nan=torch.inf)  # statistics that are not finite
    return Gap(torch.where(varies, gap, nan), torch.where(varies, expected, nan))


def blown_up(layer: Layer, series: Series) -> dict[str, float]:
    """How much too large a layer's running variance is, if it is far too large; empty if it is not.

    A gap cannot tell how far: an output that shrank to nothing is one standard deviation from where it
    was, which is hardly more than what sampling explains in batches of a few values.

    Args:
        layer: With running statistics, as many as the series has channels.
        series: What it was given.

    Returns:
        Medians over channels: ``variance_ratio``, to that of the batches, and ``mean_off``, in standard
        deviations.
    """
    assert layer.mean is not None
    assert layer.var is not None
    fresh = series.var.median(0).values
    varies = fresh > NO_VARIANCE
    if not varies.any():
        return {}
    ratio = plain(layer.var)[varies] / fresh[varies]
    off = ((plain(layer.mean) - series.mean.median(0).values) / fresh.sqrt())[varies]
    exploded = float((ratio >= EXPLODED).double().mean())
    aside = max(float((off > OFF).double().mean()), float((off < -OFF).double().mean()))
    if exploded >= HALF or (aside >= MOST and float(ratio.median()) >= GROWN):
        return {"variance_ratio": float(ratio.median()), "mean_off": float(off.abs().median())}
    return {}


def excess_of(layers: Iterable[tuple[float, float]]) -> float:
    """How far a whole network's prediction is from its training beyond what sampling explains.

    The ratio says how sure it is that statistics are off: it doubles when the batch is four times as
    large, at the same damage. This says how much is off.

    Args:
        layers: Ratio and size of each layer's gap; NaN counts for nothing.

    Returns:
        Output standard deviations: the root of the sum of the layers' size² − expected², since many
        small gaps add up in a deep network.

    Example:
        >>> excess_of([(1.0, 0.3), (4.0, 0.2)]) < 0.2
        True
    """
    return math.hypot(*(size * math.sqrt(1 - ratio**-2) for ratio, size in layers if ratio > 1))


def independence_of(series: Series) -> float:
    """Spread of batch means over what independent samples would give, the median over channels.

    1 for shuffled data whatever the batch size; NaN for batches of one sample.
    """
    independent = (series.item_var / series.items.unsqueeze(1)).mean(0)
    return float((series.mean.var(0) / independent).nanmedian())


def independence_by_chance(series: Series) -> float:
    """What `independence_of` stays below for independent samples, in all but about one case in 4000.

    The ratio of two variances follows Fisher's F; its logarithm is nearly normal, with variance
    2 / d₁ + 2 / d₂ for the degrees of freedom. Channels count as one, since they may all say the same.

    Args:
        series: Two batches or more, of more samples than batches.
    """
    batches, samples = len(series.mean), float(series.items.sum())
    return math.exp(3.5 * math.sqrt(2 / (batches - 1) + 2 / (samples - batches)))
