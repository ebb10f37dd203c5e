"""The strategies draw what they say: layouts with the right strides, values as described, repeatably."""

import pytest
import torch
from hypothesis import given

from tests.strategies import LAYOUTS, Case, cases, lay_out, shapes


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 2), (4, 3, 5, 2, 3)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_keeps_the_values(layout, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lay_out(values, layout), values)


def test_strides_of_each_layout():
    values = torch.zeros(2, 3, 5, 7)
    assert {layout: lay_out(values, layout).stride() for layout in (*LAYOUTS, "expanded")} == {
        "contiguous": (105, 35, 7, 1),
        "channels_last": (105, 1, 21, 3),
        "transposed": (1, 10, 2, 30),
        "every_second": (225, 75, 15, 2),
        "channel_slice": (175, 35, 7, 1),
        "channels_last_slice": (175, 1, 35, 5),
        "expanded": (0, 0, 0, 0),
    }
    assert lay_out(values, "channels_last").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["every_second", "channel_slice", "channels_last_slice"])
def test_nan_lies_between_the_elements_of_a_slice(layout):
    window = lay_out(torch.zeros(2, 3, 5), layout)
    room = torch.as_strided(window, (window.untyped_storage().nbytes() // 4,), (1,), 0)
    assert (~torch.isnan(room)).sum() == window.numel()
    assert torch.isnan(room).any()


def test_values_have_the_mean_and_spread_that_the_case_says():
    case = Case((20_000, 3), offset=1e4, spread=2.0, constant_channel=True, dtype=torch.float64)
    input = case.tensors().input
    # three standard errors of 20,000 values of spread 2
    assert input.mean(0).tolist() == pytest.approx([2e4, -2e4, 2e4], abs=3 * 0.0142)
    assert input.std(0).tolist() == pytest.approx([2, 2, 0], abs=3 * 0.01)


@given(case=cases())
def test_a_case_builds_the_same_finite_tensors_each_time(case):
    first, second = case.tensors(), case.tensors()
    assert torch.equal(first.input, second.input)
    assert torch.equal(first.grad_output, second.grad_output)
    assert torch.isfinite(first.input).all()
    assert case.count >= 2
    assert (first.running_var > 0).all()


@given(shape=shapes(min_count=1))
def test_shapes_are_of_rank_two_to_five_and_small(shape):
    assert 2 <= len(shape) <= 5
    assert 1 <= torch.Size(shape).numel() <= 10_000
