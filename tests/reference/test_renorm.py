"""Batch renormalization: its two limits, and the road between them."""

import math

import numpy as np
import pytest
import torch

from batchnorm.reference import (
    batch_norm_predict,
    normalizing_stats,
    part_moments,
    renorm_correction,
    renorm_limits,
    weighted_forward,
)

RNG = np.random.default_rng(0)
X = RNG.normal(1.0, 2.0, (8, 2, 3))
RUNNING = (RNG.normal(size=2), RNG.uniform(0.5, 2.0, 2))
AFFINE = (RNG.normal(size=2), RNG.normal(size=2))
MASK = RNG.random((8, 1, 3)) < 0.7
MASK[5:] = False
PARTS = [0, 0, 0, 1, 1, 2, 2, 2]  # the last without a value


def renormalized(r_max, d_max):
    fallback = tuple(np.broadcast_to(values, (3, 2)) for values in RUNNING)
    stats = normalizing_stats(part_moments(X, MASK, PARTS), fallback)
    options = {"weights": MASK, "parts": PARTS, "fallback": fallback, "excluded": "normalize"}
    correction = renorm_correction(*stats, *RUNNING, r_max, d_max)
    return weighted_forward(X, *AFFINE, **options, correction=correction), options


def test_without_limits_training_computes_what_prediction_computes():
    y, _ = renormalized(math.inf, math.inf)
    np.testing.assert_allclose(y, batch_norm_predict(X, *RUNNING, *AFFINE), rtol=1e-12, atol=1e-14)


def test_limits_of_one_and_zero_leave_plain_batch_normalization():
    y, options = renormalized(1.0, 0.0)
    assert np.array_equal(y, weighted_forward(X, *AFFINE, **options))


def test_both_sides_are_clipped():
    # σ_B = 4, ¼, 1 against σ = 1; the means 6, −6, ½ below or above 0 by that many σ
    r, d = renorm_correction([6.0, -6.0, 0.5], [15.0, -15 / 16, 0.0], np.zeros(3), np.zeros(3), 3.0, 5.0, 1.0)
    np.testing.assert_allclose(r, [3, 1 / 3, 1], rtol=1e-15)
    assert d.tolist() == [5, -5, 0.5]


def test_distance_and_spread_are_measured_in_predictions_sigma():
    r, d = renorm_correction([3.0], [8.0], [1.0], [15.0], r_max=10.0, d_max=10.0, eps=1.0)
    assert (r.tolist(), d.tolist()) == ([0.75], [0.5])


class TestSchedule:
    def test_the_papers(self):
        steps = [0, 5_000, 15_000, 25_000, 40_000, 10**6]
        limits = [renorm_limits(step, warmup=5_000) for step in steps]
        assert limits == [(1, 0), (1, 0), (1 + 4 / 7, 2.5), (1 + 8 / 7, 5), (3, 5), (3, 5)]

    def test_a_number_is_short_for_the_papers_proportions(self):
        for step in range(0, 1_000, 7):
            assert renorm_limits(step, 4.0, 2.0, 100) == renorm_limits(step, 4.0, 2.0, (100, 800, 500))

    @pytest.mark.parametrize("integer", [np.int64, np.int8, torch.tensor])
    def test_integers_of_any_kind_give_plain_numbers(self, integer):
        limits = renorm_limits(integer(100), warmup=np.int8(50))
        assert limits == renorm_limits(100, warmup=50)
        assert [type(limit) for limit in limits] == [float, float]

    def test_no_warmup_is_the_full_limits_at_once(self):
        assert renorm_limits(0) == renorm_limits(0, warmup=(0, 0, 0)) == (3, 5)

    def test_a_warmup_without_slope_is_a_step(self):
        assert [renorm_limits(step, warmup=(2, 2, 2)) for step in (1, 2)] == [(1, 0), (3, 5)]

    def test_infinite_limits_start_from_one_and_zero_too(self):
        assert renorm_limits(1, math.inf, math.inf, (1, 3, 3)) == (1, 0)
        assert renorm_limits(2, math.inf, math.inf, (1, 3, 3)) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ((0.5, 5.0), "r_max expected at least 1, got 0.5"),
        ((math.nan, 5.0), "r_max expected at least 1, got nan"),
        ((3.0, -1.0), "d_max expected at least 0, got -1.0"),
    ],
)
def test_refusals(limits, text):
    with pytest.raises(ValueError, match=r"^batch_norm: ") as refusal:
        renorm_correction([0.0], [1.0], [0.0], [1.0], *limits)
    assert str(refusal.value) == f"batch_norm: {text}"
