"""Sound kernels pass, and each kind of wrong one is caught."""

import math

import pytest
import torch

from batchnorm.bench.cases import CASES, DTYPES, make_problem
from batchnorm.bench.check import largest_error
from batchnorm.ops import batch_norm

SHAPES = [(2, 3), (8, 16, 6, 7), (3, 2, 2, 3, 5)]


def problem_of(case, shape=(8, 16, 6, 7), dtype="float32", layout="contiguous"):
    return make_problem(CASES[case], shape, dtype, layout, seed=1)


def replace_kernel(monkeypatch, kernel):
    monkeypatch.setattr("batchnorm.nn.batch_norm.batch_norm", kernel)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["auto", "eager", "torch"])
def test_sound_kernels_are_far_from_the_tolerance(case, dtype, backend):
    for shape in SHAPES:
        assert largest_error(problem_of(case, shape, dtype), backend) < 0.5
    if backend != "torch":
        assert largest_error(problem_of(case, (64, 4, 16, 16), dtype, "channels_last"), backend) < 0.5


def test_torchs_sums_in_float32_are_not_good_enough():
    problem = problem_of("forward", (256, 6, 24, 24), layout="channels_last")
    assert largest_error(problem, "torch") > 1
    assert largest_error(problem, "eager") < 0.5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_output_is_caught(monkeypatch, case, dtype):
    replace_kernel(monkeypatch, lambda *args, **named: batch_norm(*args, **named) * 1.05)
    assert largest_error(problem_of(case, dtype=dtype), "auto") > 1


def test_an_element_that_is_not_a_number_is_caught(monkeypatch):
    def kernel(*args, **named):
        y = batch_norm(*args, **named).detach()
        y.view(-1)[5] = math.nan
        return y

    replace_kernel(monkeypatch, kernel)
    assert largest_error(problem_of("forward"), "auto") == math.inf


@pytest.mark.parametrize("wrong", ["input", "residual", "weight", "bias"])
def test_a_wrong_gradient_is_caught(monkeypatch, wrong):
    def kernel(input, mean, var, weight, bias, *args, residual, **named):
        tensors = {"input": input, "residual": residual, "weight": weight, "bias": bias}
        # the value stays, the gradient is a hundredth too large
        given = tensors[wrong]
        tensors[wrong] = given + 0.01 * (given - given.detach())
        return batch_norm(
            tensors["input"], mean, var, tensors["weight"], tensors["bias"], *args,
            residual=tensors["residual"], **named,
        )  # fmt: skip

    replace_kernel(monkeypatch, kernel)
    assert largest_error(problem_of("add+relu"), "auto") > 1


@pytest.mark.parametrize("which", [1, 2])
def test_wrong_running_statistics_are_caught(monkeypatch, which):
    def kernel(*args, **named):
        y = batch_norm(*args, **named)
        args[which].mul_(1.001)
        return y

    replace_kernel(monkeypatch, kernel)
    assert largest_error(problem_of("relu"), "auto") > 1


def test_relus_corner_is_forgiven(monkeypatch):
    """A kernel whose argument is off by less than the tolerance may pass or stop a gradient there."""

    def kernel(input, mean, var, weight, bias, *args, **named):
        return batch_norm(input, mean, var, weight, bias + 1e-5, *args, **named)

    replace_kernel(monkeypatch, kernel)
    assert largest_error(problem_of("relu", (64, 16, 32, 32)), "auto") < 1


def test_zeros_that_are_right_are_no_error():
    problem = problem_of("relu", (4, 2))
    problem.bias.fill_(-100)
    assert largest_error(problem, "auto") < 0.5
    assert not torch.relu(problem.bias).any()
