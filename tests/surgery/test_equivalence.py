"""How far two models' outputs are from each other."""

import math

import pytest
import torch

from batchnorm.surgery.equivalence import check_difference, largest_difference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([2.0, -4.0], [2.0, -3.0], 0.25),
        ([0.0, 0.0], [0.0, 3.0], 3.0),
        ([1 + 1j], [1 + 2j], 1.0),
        ([NAN, 4.0, INF], [NAN, 2.0, INF], 0.5),
        ([NAN, INF], [NAN, INF], 0.0),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([1.0], [1.0, 1.0], INF),
        ([1.0], [1.0 + 0j], INF),
    ],
)
def test_the_largest_difference_is_relative_and_of_the_finite_values(before, after, expected):
    assert largest_difference(torch.tensor(before), torch.tensor(after)) == expected


def test_another_number_of_outputs_is_named():
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"^fold: model expected 1 outputs, got 2$"):
        check_difference("fold", [one], [one, one], None)
