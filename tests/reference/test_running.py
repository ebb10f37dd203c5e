"""Running statistics of each kind, against the textbook's and torch's."""

import numpy as np
import pytest
import torch

from batchnorm.reference import (
    Moments,
    batch_stats,
    merge_moments,
    part_moments,
    update_running_ghost,
    update_running_rows,
    update_running_stats,
)
from tests.reference.test_moments import SPLITS

MOMENTA = [0.1, 0.7, 1.0, None]


def rows(moments, count=1):
    """Fresh running statistics to move by the moments."""
    channels = moments.mean.shape[-1]
    return np.zeros((count, channels)), np.ones((count, channels)), np.zeros(count, dtype=int)


def assert_same(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-12)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_one_row_moves_as_the_textbooks_do(momentum):
    ours = textbook = (np.zeros(3), np.ones(3), 0)
    for step in range(4):
        x = np.random.default_rng(step).normal(step, 1 + step, (4, 3, 2))
        ours = update_running_rows(*ours, Moments(*(field[0] for field in part_moments(x))), momentum)
        textbook = update_running_stats(*textbook, *batch_stats(x), count=8, momentum=momentum)
        assert_same(ours, textbook)


class TestRows:
    """Row 0 sees 2, 6 (mean 4, unbiased 8), row 1 nothing, row 2 a single value."""

    moments = part_moments([[2.0], [5.0], [6.0]], parts=[0, 2, 0], num_parts=3)

    def test_only_rows_with_a_variance_move_and_count(self):
        mean, var, batches = update_running_rows(
            [[0.0], [7.0], [7.0]], [[1.0], [9.0], [9.0]], [3, 5, 7], self.moments, momentum=0.25
        )
        assert mean.tolist() == [[1], [7], [7]]
        assert var.tolist() == [[2.75], [9], [9]]
        assert batches.tolist() == [4, 5, 7]

    def test_the_plain_mean_counts_the_batches_of_each_row(self):
        running = update_running_rows(*rows(self.moments, 3), self.moments, momentum=None)
        other = part_moments([[1.0], [3.0], [8.0], [10.0]], parts=[1, 1, 0, 0], num_parts=3)
        mean, var, batches = update_running_rows(*running, other, momentum=None)
        assert mean.tolist() == [[6.5], [2], [0]]
        assert var.tolist() == [[5], [2], [1]]
        assert batches.tolist() == [2, 1, 0]

    def test_a_channel_without_values_stays_while_the_row_counts(self):
        moments = part_moments([[2.0, 2.0], [6.0, 6.0]], weights=[[1, 0], [1, 1]])
        mean, var, batches = update_running_rows(*rows(moments), moments, momentum=0.5)
        assert mean.tolist() == [[2, 0]]
        assert var.tolist() == [[4.5, 1]]
        assert batches.tolist() == [1]


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("sizes", [(4, 4), (4, 2), (2, 2, 2, 3)])
def test_ghost_batches_move_as_torch_does_one_after_the_other(sizes, momentum):
    layer = torch.nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    ours = (np.zeros(3), np.ones(3), 0)
    for step in range(2):
        x = np.random.default_rng(step).normal(step, 1 + step, (sum(sizes), 3, 2))
        for ghost in torch.tensor(x).split(sizes):
            layer(ghost)
        parts = np.repeat(np.arange(len(sizes)), sizes)
        ours = update_running_ghost(*ours, part_moments(x, parts=parts), momentum)
    assert_same(ours, (layer.running_mean, layer.running_var, layer.num_batches_tracked))


def test_ghost_batches_in_one_formula():
    moments = part_moments([[1.0], [3.0], [4.0], [6.0], [9.0], [9.0]], parts=[0, 0, 1, 1, 2, 2])
    mean, var, parts = update_running_ghost([16.0], [8.0], 4, moments, momentum=0.5)
    # ⅛ · 16 + ⅛ · 2 + ¼ · 5 + ½ · 9, and ⅛ · 8 + ⅛ · 2 + ¼ · 2 + ½ · 0
    assert (mean.tolist(), var.tolist(), parts.tolist()) == ([8.0], [1.75], 7)


def test_the_moments_of_a_single_part_are_one_ghost():
    moments = part_moments([[1.0, 5.0], [3.0, 9.0]])
    alone = Moments(*(field[0] for field in moments))
    running = ([0.0, 1.0], [1.0, 1.0], 0)
    assert_same(update_running_ghost(*running, alone), update_running_ghost(*running, moments))


def test_a_ghost_batch_without_a_variance_is_skipped():
    moments = part_moments([[1.0], [3.0], [50.0]], parts=[0, 0, 1])
    mean, var, parts = update_running_ghost([0.0], [1.0], 0, moments, momentum=0.5)
    assert (mean.tolist(), var.tolist(), parts.tolist()) == ([1], [1.5], 1)


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("split", SPLITS)
def test_ranks_and_micro_batches_together_move_as_the_one_large_batch(split, momentum):
    rng = np.random.default_rng(1)
    x, weights = rng.normal(3.0, 2.0, (8, 3, 2)), rng.random((8, 3, 2))
    ends = np.cumsum(split)[:-1]
    pieces = [part_moments(*piece) for piece in zip(np.split(x, ends), np.split(weights, ends), strict=True)]
    whole = part_moments(x, weights)
    ours = update_running_rows(*rows(whole), merge_moments(*pieces), momentum)
    assert_same(ours, update_running_rows(*rows(whole), whole, momentum))


@pytest.mark.parametrize("wrap", [np.array, torch.tensor])
@pytest.mark.parametrize("move", [update_running_rows, update_running_ghost])
def test_running_statistics_are_new_and_the_callers_stay(move, wrap):
    before = [wrap(values) for values in ([2.0], [1.0], 3)]
    moments = Moments(*(wrap(field[0].tolist()) for field in part_moments([[1.0], [3.0]])))
    after = move(*before, moments, momentum=None)
    assert [values.tolist() for values in before] == [[2.0], [1.0], 3]
    assert [type(values) for values in after] == [np.ndarray, np.ndarray, np.int64]
    assert after[2] == 4


@pytest.mark.parametrize(
    ("running", "text"),
    [
        (([0.0], [1.0], 0), "moments expected the shape (1,) of running_mean, got (2, 1)"),
        (
            ([[0.0]] * 3, [[1.0]] * 3, [0] * 3),
            "moments expected the shape (3, 1) of running_mean, got (2, 1)",
        ),
        (([[0.0]] * 2, [1.0], [0, 0]), "running_var expected the shape (2, 1) of running_mean, got (1,)"),
        (([[0.0]] * 2, [[1.0]] * 2, 0), "num_batches_tracked expected the shape (2,) of the rows, got ()"),
    ],
)
def test_refusals(running, text):
    with pytest.raises(ValueError, match=r"^batch_norm: ") as refusal:
        update_running_rows(*running, part_moments(np.ones((4, 1)), parts=[0, 0, 1, 1]))
    assert str(refusal.value) == f"batch_norm: {text}"
