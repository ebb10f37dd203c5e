"""What the function refuses before a kernel sees it, where a layer has no check of its own."""

import pytest
import torch

from batchnorm.ops import batch_norm
from tests.conformance.comparison import NATIVE, each_backend

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
        ((X, ONES, ONES), {"residual": 1.0}, TypeError, "residual expected a tensor, got float"),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(arguments, options, error, message, backend):
    with pytest.raises(error) as refusal:
        batch_norm(*arguments, backend=backend, **options)
    assert str(refusal.value) == f"batch_norm: {message}"


@pytest.mark.parametrize("backend", [NATIVE])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("away", ["running_mean", "running_var", "weight", "bias", "residual"])
def test_a_tensor_without_values_is_refused_and_nothing_moves(away, training, backend):
    # the dispatcher took the fake kernel, and the output was memory that nobody had written
    names = ("input", "running_mean", "running_var", "weight", "bias", "residual", "num_batches_tracked")
    values = (X, ONES, ONES, ONES, ONES, X, torch.tensor(0))
    given = {name: value.clone() for name, value in zip(names, values, strict=True)}
    given[away] = given[away].to("meta")
    with pytest.raises(RuntimeError, match=r"^batch_norm: tensors expected on one device, got cpu and meta$"):
        batch_norm(training=training, backend=backend, **given)
    for name, value in zip(names, values, strict=True):
        assert name == away or torch.equal(given[name], value), name


@pytest.mark.parametrize("backend", [NATIVE])
def test_a_counter_without_a_value_is_refused(backend):
    mean, counter = ONES.clone(), torch.tensor(0, device="meta")
    with pytest.raises(RuntimeError, match="expected on one device, got cpu and meta"):
        batch_norm(X, mean, ONES.clone(), training=True, num_batches_tracked=counter, backend=backend)
    assert torch.equal(mean, ONES)


def test_half_statistics_cost_the_prediction_no_digits():
    x, mean, var = torch.full((1, 1), 2.0), torch.zeros(1), torch.tensor([0.33])
    for dtype in (torch.float16, torch.bfloat16):
        given = (x.to(dtype), mean.to(dtype), var.to(dtype))
        expected = batch_norm(*(values.double() for values in given), eps=1e-3).to(dtype)
        for backend in ("eager", "auto"):
            torch.testing.assert_close(batch_norm(*given, eps=1e-3, backend=backend), expected)
        none_left = batch_norm(given[1][:, None], given[1], given[1], eps=1e-8, backend="eager")
        assert none_left.item() == 0  # 1e-8 is 0 in float16, and 0 · 1/0 NaN
