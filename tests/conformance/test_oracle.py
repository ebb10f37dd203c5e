"""Forward and backward of every backend against the oracle."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings

from batchnorm.ops import has_native
from tests.conformance.comparison import check, each_backend, each_of_ours, run
from tests.interpreter import INTERPRETED
from tests.strategies import ACTIVATIONS, DTYPES, LAYOUTS, Case, cases

many = settings(max_examples=2 * settings().max_examples)

# Triton's interpreter is slow, and its kernels see a copy of whatever is laid out in another way.
BIG_LAYOUTS = ("contiguous", "channels_last") if INTERPRETED else LAYOUTS

BIG = [
    (100_000, 3),
    (4099, 33),
    (30_000, 2, 3),  # long in N, short in space
    (1009, 3, 7, 7),
    (2, 3, 40_001),  # short in N, long in space
    (257, 5, 17, 19),
    (3, 2, 31, 13, 29),
]


@each_of_ours
@many
@given(case=cases())
def test_training(backend, case):
    check(case, backend, training=True)


@each_of_ours
@many
@given(case=cases(min_count=1))
def test_prediction(backend, case):
    check(case, backend, training=False)


# Torch's own CPU kernels keep to the bounds where they sum float32 in double: contiguous, all of it.
# In float64 they sum one value after the other; elsewhere see the two expected failures.
torch_cases = cases(
    dtypes=(torch.float32, torch.bfloat16, torch.float16), layouts=("contiguous",), grads=("contiguous",)
)


@many
@given(case=torch_cases)
def test_training_by_torch(case):
    check(case, "torch", training=True)


@many
@given(case=torch_cases)
def test_prediction_by_torch(case):
    check(case, "torch", training=False)


@pytest.mark.xfail(
    reason="torch sums channels_last in float32, one value after the other", raises=AssertionError
)
def test_torch_loses_digits_of_channels_last_data_far_from_zero():
    check(Case((64, 3, 32, 32), layout="channels_last", offset=1e4), "torch", training=True)


@pytest.mark.xfail(reason="torch rounds a channels_last half gradient several times", raises=AssertionError)
def test_torch_loses_digits_of_half_gradients():
    check(Case((8, 5, 9), dtype=torch.bfloat16, layout="channels_last", offset=3.0), "torch", training=True)


@each_of_ours
@pytest.mark.parametrize("layout", BIG_LAYOUTS)
@pytest.mark.parametrize("shape", BIG, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_values_per_channel(backend, layout, shape, dtype):
    case = Case(
        shape, dtype=dtype, layout=layout, offset=3.0, grad=layout, activation="silu", residual=layout
    )
    check(case, backend, training=True)


# Outputs from 2 MB on are written past the cache: rows that do not begin with a cache line, and short rows.
LARGE = [(33, 130, 15, 18), (23, 1000, 7, 7)]


@pytest.mark.skipif(not has_native("cpu"), reason="the native CPU kernels are not built")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_native_outputs_past_the_cache(shape, dtype, layout):
    case = Case(
        shape, dtype=dtype, parameters=dtype, layout=layout, grad=layout, activation="relu", residual=layout
    )
    check(case, "native", training=True)
    check(dataclasses.replace(case, residual=None), "native", training=False)


@each_of_ours
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_mean_far_from_zero_costs_no_more_digits_than_the_input_has(backend, layout, offset):
    check(Case((64, 3, 32, 32), layout=layout, offset=offset, activation="relu"), backend, training=True)


@each_backend
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("residual", [None, "contiguous"])
def test_each_activation_in_each_dtype(backend, activation, dtype, residual):
    case = Case((8, 5, 9), dtype=dtype, parameters=dtype, activation=activation, residual=residual, seed=1)
    check(case, backend, training=True)
    check(dataclasses.replace(case, seed=2), backend, training=False)


@each_backend
def test_the_same_call_twice_gives_the_same_bits(backend):
    case = Case((33, 7, 13, 17), activation="gelu", residual="contiguous")
    first, second = (run(case, case.tensors(), backend, training=True) for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name, gradient in first[1].items():
        assert torch.equal(gradient, second[1][name]), name


@pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter has one thread")
@each_of_ours
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_threads_stay_within_the_bounds(backend, threads, layout):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(Case((257, 5, 17, 19), layout=layout, offset=3.0, activation="relu"), backend, training=True)
        check(Case((4099, 33), layout=layout, offset=3.0), backend, training=True)
    finally:
        torch.set_num_threads(before)
