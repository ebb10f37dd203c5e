"""Intervals and the rule that makes verdicts of them."""

import math

import pytest

from batchnorm.study import Condition
from batchnorm.study.intervals import mean_interval, t_quantile
from batchnorm.study.verdict import measure_effect, verdict_of

ABOVE = Condition("c", "text", "above", 0.0)
BELOW = Condition("c", "text", "below", 0.0)
RATIO = Condition("c", "text", "above", 1.0, unit="×")
EXACT = Condition("c", "text", "below", 1e-6, exact=True)


@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (200, 1.972)],
)
def test_quantiles_are_those_of_the_printed_tables(freedom, value):
    assert t_quantile(freedom) == pytest.approx(value, abs=5e-4)


def test_an_interval_covers_the_mean_in_95_of_100_cases():
    import torch

    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = sum(low < 0 < high for _, low, high in (mean_interval(row) for row in draws.tolist()))
    assert 0.94 < inside / 4000 < 0.96


@pytest.mark.parametrize(
    ("condition", "values", "met"),
    [
        (ABOVE, [1.0, 1.1, 0.9], True),
        (ABOVE, [1.0, 5.0, -0.5], False),  # the mean is above, the interval is not
        (ABOVE, [2.0], None),  # one seed knows nothing
        (ABOVE, [1.0, math.nan, 1.0], False),
        (BELOW, [-1.0, -1.1, -0.9], True),
        (BELOW, [1.0, 1.1, 0.9], False),
        (RATIO, [2.0, 2.2, 1.9], True),
        (RATIO, [2.0, 0.4, 1.2], False),
        (RATIO, [2.0, 0.0, 1.2], False),  # has no logarithm
        (EXACT, [0.0], True),
        (EXACT, [0.0, 1e-3], False),
        (ABOVE, [], None),
    ],
)
def test_a_condition_is_met_if_the_whole_interval_lies_on_its_side(condition, values, met):
    assert measure_effect(condition, values).met is met


def test_a_ratio_is_averaged_by_its_logarithm():
    effect = measure_effect(RATIO, [2.0, 8.0])
    assert effect.mean == pytest.approx(4.0)
    assert effect.low * effect.high == pytest.approx(16.0)


def test_an_exact_effect_is_its_worst_value():
    assert measure_effect(EXACT, [1e-9, 1e-7]).mean == 1e-7


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([[1, 1.1], [1, 1.1]], "holds"),
        ([[1, 1.1], [-1, -1.1]], "holds in part"),
        ([[1, 1.1], []], "holds in part"),
        ([[-1, -1.1], []], "does not hold here"),
        ([[], []], "not measured"),
    ],
)
def test_all_some_or_none(values, verdict):
    # two seeds this far apart: half the interval is 12.7 · 0.05
    assert verdict_of([measure_effect(ABOVE, each) for each in values]) == verdict
