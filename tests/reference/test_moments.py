"""Weighted moments by hand, and what must not change them."""

import numpy as np
import pytest

from batchnorm.reference import Moments, batch_stats, merge_moments, normalizing_stats, part_moments

# Samples to each of the ranks or micro-batches that hold a batch of eight.
SPLITS = [(4, 4), (7, 1), (8, 0), (0, 8), (3, 0, 5), (2, 2, 2, 2), (1,) * 8]


def assert_close(ours, expected, rtol=1e-12):
    for name, our, other in zip(Moments._fields, ours, expected, strict=True):
        np.testing.assert_allclose(our, other, rtol=rtol, atol=1e-12, err_msg=name)


class TestByHand:
    """Values 1, 5, 9 with weights 2, 1, 1: V1 = 4, V2 = 6, mean 4, m2 = 2 · 9 + 1 + 25 = 44."""

    moments = part_moments([[1.0], [5.0], [9.0]], weights=[[2], [1], [1]])

    def test_sums(self):
        assert [field.tolist() for field in self.moments] == [[[4]], [[6]], [[4]], [[44]]]

    def test_variances(self):
        assert self.moments.freedom.tolist() == [[2.5]]
        assert self.moments.var.tolist() == [[11]]
        assert self.moments.var_unbiased.tolist() == [[17.6]]

    def test_parts_and_a_mask_for_each_channel(self):
        x = [[1.0, 10.0], [4.0, 20.0], [3.0, 60.0]]
        moments = part_moments(x, [[1, 0], [1, 1], [1, 1]], parts=[1, 0, 1], num_parts=3)
        assert moments.weight_sum.tolist() == [[1, 1], [2, 1], [0, 0]]
        assert moments.mean.tolist() == [[4, 20], [2, 60], [0, 0]]
        assert moments.m2.tolist() == [[0, 0], [2, 0], [0, 0]]
        assert moments.freedom.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_without_weights_they_are_the_batch_statistics():
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 3, 5))
    moments = part_moments(x)
    mean, var = batch_stats(x)
    np.testing.assert_allclose(moments.mean, mean[None], rtol=1e-15)
    np.testing.assert_allclose(moments.var, var[None], rtol=1e-14)
    np.testing.assert_allclose(moments.var_unbiased, var[None] * 20 / 19, rtol=1e-14)


def test_a_mask_leaves_the_statistics_of_what_it_keeps():
    rng = np.random.default_rng(1)
    x, mask = rng.normal(size=(5, 2, 6)), rng.random((5, 1, 6)) < 0.5
    kept = np.moveaxis(x, 1, -1)[mask[:, 0]]  # (M, C)
    moments = part_moments(x, mask)
    mean, _ = batch_stats(kept)
    np.testing.assert_allclose(moments.mean[0], mean, rtol=1e-13)
    np.testing.assert_allclose(moments.var_unbiased[0], kept.var(axis=0, ddof=1), rtol=1e-13)


def test_an_integer_weight_is_that_many_equal_values():
    rng = np.random.default_rng(2)
    x, times = rng.normal(size=(6, 2)), np.array([3, 1, 0, 2, 1, 4])
    weighted, repeated = part_moments(x, times[:, None]), part_moments(np.repeat(x, times, axis=0))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-13)
    np.testing.assert_allclose(weighted.var, repeated.var, rtol=1e-13)


def test_the_unit_of_the_weights_does_not_matter():
    rng = np.random.default_rng(3)
    x, weights = rng.normal(size=(6, 2, 3)), rng.random((6, 2, 3))
    one, other = part_moments(x, weights), part_moments(x, 7 * weights)
    for name in ("mean", "var", "var_unbiased"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-13, err_msg=name)


# for the first four w − w²/w is not 0 in float64
@pytest.mark.parametrize("weight", [0.21, 0.73, 1.54, 1.68, 1 / 3, 1e-5, 3e8])
def test_one_value_has_no_freedom_whatever_its_weight(weight):
    assert part_moments([[5.0], [6.0]], [[weight], [0.0]]).freedom.tolist() == [[0]]


def test_a_small_second_weight_gives_freedom():
    np.testing.assert_allclose(part_moments([[5.0], [6.0]], [[1.0], [1e-6]]).freedom, [[2e-6]], rtol=1e-5)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_merging_gives_the_moments_of_the_concatenated_batch(split, offset):
    rng = np.random.default_rng(4)
    x, weights = rng.normal(offset, 1.0, (8, 3, 2)), rng.random((8, 1, 2)) * (rng.random((8, 1, 2)) < 0.8)
    ends = np.cumsum(split)[:-1]
    pieces = [part_moments(*piece) for piece in zip(np.split(x, ends), np.split(weights, ends), strict=True)]
    assert_close(merge_moments(*pieces), part_moments(x, weights), rtol=1e-10)


def test_merging_adds_what_lies_between_the_means():
    # within: 2 and 0, between: 4 values of 2 against 1 of 7, distance² 25 · 4 · 1 / 5
    a, b = part_moments([[1.0], [3.0], [2.0], [2.0]]), part_moments([[7.0]])
    assert [field.item() for field in merge_moments(a, b)] == [5, 5, 3, 22]


def test_merging_the_parts_gives_the_whole():
    x = np.random.default_rng(5).normal(size=(6, 2, 3))
    parts = part_moments(x, parts=[0, 2, 0, 1, 2, 2])
    assert_close(merge_moments(*map(Moments, *parts)), Moments(*map(np.squeeze, part_moments(x))))


def test_without_channels_there_is_nothing_to_sum():
    assert [field.shape for field in part_moments(np.zeros((3, 0)), parts=[0, 1, 1])] == [(2, 0)] * 4


def test_nothing_but_the_weights_says_what_counts():
    moments = part_moments([[1.0], [np.nan], [3.0], [np.inf]], [[1], [0], [1], [0]])
    assert (moments.mean.item(), moments.m2.item()) == (2, 2)


def test_the_fallback_stands_in_where_there_is_one_value_or_none():
    x, mask = [[1.0, 5.0, 8.0], [3.0, 7.0, 9.0]], [[True, True, False], [True, False, False]]
    mean, var = normalizing_stats(part_moments(x, mask), ([[10.0, 20.0, 30.0]], [[4.0, 5.0, 6.0]]))
    assert mean.tolist() == [[2, 20, 30]]
    assert var.tolist() == [[1, 5, 6]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weights": np.ones((3, 1))}, "weights expected a shape that broadcasts to (2, 1, 2), got (3, 1)"),
        (
            {"weights": np.ones((1, 2, 2))},
            "weights expected a shape that broadcasts to (2, 1, 2), got (1, 2, 2)",
        ),
        ({"weights": [[[1.0, -1.0]]]}, "weights expected finite values from 0 up, got -1.0 … 1.0"),
        ({"weights": [[[1.0, np.nan]]]}, "weights expected finite values from 0 up, got nan … nan"),
        ({"parts": [0]}, "parts expected 2 integers of at least 0, got [0]"),
        ({"parts": [0.0, 1.0]}, "parts expected 2 integers of at least 0, got [0.0, 1.0]"),
        ({"parts": [0, -1]}, "parts expected 2 integers of at least 0, got [0, -1]"),
        ({"parts": [0, 2], "num_parts": 2}, "parts expected numbers below 2, got 2"),
    ],
)
def test_refusals(options, text):
    with pytest.raises(ValueError, match=r"^batch_norm: ") as refusal:
        part_moments(np.ones((2, 1, 2)), **options)
    assert str(refusal.value) == f"batch_norm: {text}"


def test_a_fallback_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^batch_norm: fallback expected the shape \(1, 2\) of the moments"):
        normalizing_stats(part_moments(np.eye(2)), (np.zeros(2), np.ones(2)))
