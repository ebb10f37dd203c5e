import math

import pytest
import torch

from batchnorm.surgery import moments
from batchnorm.surgery.moments import Moments, moments_of
from tests.surgery.networks import pooled


def merged(batches):
    total = moments_of(batches[0])
    for batch in batches[1:]:
        total = total.merge(moments_of(batch))
    return total


def layouts(x):
    yield x
    yield x.contiguous(memory_format=torch.channels_last)
    yield torch.cat([x, x + 1], 3)[..., : x.shape[3]]
    yield x.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("piece", [1, 40, 10**9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_of_a_batch_are_exact_in_any_layout_and_piece(monkeypatch, piece, dtype):
    monkeypatch.setattr(moments, "_PIECE_CPU", piece)
    for x in layouts((torch.randn(5, 3, 4, 2) * 3 + 1000).to(dtype)):
        before = x.clone()
        seen = moments_of(x)
        values = x.double().transpose(0, 1).flatten(1)
        assert (seen.count, seen.batches) == (40, 1)
        torch.testing.assert_close(seen.mean, values.mean(1), rtol=1e-14, atol=0)
        torch.testing.assert_close(seen.within, values.var(1, correction=0) * 40, rtol=1e-12, atol=0)
        assert not seen.between.any()
        assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 2, 2, 2), (1, 3)])
def test_moments_of_any_rank(shape):
    x = torch.randn(shape, dtype=torch.float64)
    seen = moments_of(x)
    values = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(seen.mean, values.mean(1))
    torch.testing.assert_close(seen.var, values.var(1, correction=0))


def test_an_empty_batch_has_no_moments():
    assert moments_of(torch.empty(0, 3)) is None


def test_merging_gives_the_variance_within_and_between_batches():
    # Sizes 3 and 1, means 1 and 5: the whole has mean 2, within 2 + 0, between 3 · 1² + 1 · 3².
    total = merged([torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[5.0]])])
    assert (total.count, total.batches, total.mean.item()) == (4, 2, 2.0)
    assert (total.within.item(), total.between.item(), total.var.item()) == (2.0, 12.0, 3.5)


def test_merging_is_exact_in_any_order_and_far_from_zero():
    batches = [torch.randn(n, 2, dtype=torch.float64) + 1e6 * n for n in (5, 1, 9, 2)]
    mean, var = pooled(torch.cat(batches).T)
    left = merged(batches)
    right = merged(batches[:2]).merge(merged(batches[2:]))
    for total in (left, right, merged(batches[::-1])):
        torch.testing.assert_close(total.mean, mean, rtol=1e-15, atol=0)
        torch.testing.assert_close(total.var * 17 / 16, var, rtol=1e-13, atol=0)


def test_as_one_batch_keeps_the_variance():
    total = merged([torch.randn(4, 2), torch.randn(6, 2) + 3])
    one = total.as_one_batch()
    assert (one.count, one.batches) == (10, 1)
    assert torch.equal(one.var, total.var)
    assert not one.between.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_seen(value):
    x = torch.zeros(4, 3)
    assert moments_of(x).is_finite()
    x[2, 1] = value
    assert not moments_of(x).is_finite()


def test_standard_error_is_that_of_the_scatter_of_means():
    rows = torch.Generator().manual_seed(2)
    batches = [torch.randn(50, 4, generator=rows) * 7 for _ in range(400)]
    # 20 000 independent values: the mean is known to 1 / √20000 standard deviations.
    assert merged(batches).standard_error() == pytest.approx(1 / math.sqrt(20_000), rel=0.15)
    # Each value five times over makes it no better.
    wide = [batch.repeat_interleave(5, 0) for batch in batches]
    assert merged(wide).standard_error() == pytest.approx(1 / math.sqrt(20_000), rel=0.15)
    assert math.isnan(merged(batches[:1]).standard_error())


def test_standard_error_takes_the_worst_channel_and_no_constant_one():
    steady = torch.tensor([[1.0], [-1.0]])
    moving = [torch.cat([steady, steady + n, torch.ones(2, 1)], 1) for n in range(3)]
    # Means 0, 1, 2 of two values each: 1 / √3, of standard deviation √(1 + 2/3).
    assert merged(moving).standard_error() == pytest.approx(math.sqrt(1 / 3) / math.sqrt(5 / 3))
    assert merged([torch.ones(2, 1)] * 3).standard_error() == 0


def test_effective_count_is_the_number_of_independent_values():
    rows = torch.Generator().manual_seed(3)
    batches = [torch.randn(20, 5, generator=rows) + 3 for _ in range(500)]
    assert merged(batches).effective_count() == pytest.approx(20, rel=0.1)
    pairs = [torch.randn(2, 5, generator=rows) for _ in range(2000)]
    assert merged(pairs).effective_count() == pytest.approx(2, rel=0.1)
    # A constant channel has nothing to say about it.
    flat = [torch.cat([batch, torch.ones(20, 1)], 1) for batch in batches]
    assert merged(flat).effective_count() == pytest.approx(20, rel=0.1)
    # An image of 16 equal pixels is worth one value.
    images = [batch[..., None].expand(-1, -1, 16) for batch in batches]
    assert merged(images).effective_count() == pytest.approx(20, rel=0.1)
    assert merged([batch + 10 * (n % 2) for n, batch in enumerate(batches)]).effective_count() < 0.1


def test_effective_count_without_an_answer_is_nan():
    assert math.isnan(merged([torch.randn(8, 2)]).effective_count())
    assert math.isnan(merged([torch.ones(8, 2)] * 3).effective_count())
    assert Moments(4, torch.zeros(1), torch.ones(1), torch.zeros(1), 2).effective_count() == math.inf
