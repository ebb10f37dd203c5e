"""What the function refuses before a kernel sees it, where a layer has no check of its own."""

import pytest
import torch

from batchnorm.ops import batch_norm
from tests.conformance.comparison import each_backend

X, ONES = torch.randn(4, 3, 2), torch.ones(3)


@each_backend
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(3), ONES, ONES), {}, ValueError, "input expected shape (N, C, *spatial), got (3,)"),
        (
            (X, None, None),
            {},
            ValueError,
            "running_mean and running_var expected tensors in prediction, got None",
        ),
        (
            (X, ONES, ONES),
            {"nonfinite": "drop"},
            ValueError,
            "nonfinite expected one of propagate, skip, raise, got 'drop'",
        ),
        (
            (X, ONES, ONES, torch.ones(3, 1)),
            {},
            RuntimeError,
            "weight expected shape (3,), as the input has channels, got (3, 1)",
        ),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(arguments, options, error, message, backend):
    with pytest.raises(error) as refusal:
        batch_norm(*arguments, backend=backend, **options)
    assert str(refusal.value) == f"batch_norm: {message}"
