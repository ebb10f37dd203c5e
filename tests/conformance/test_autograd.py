"""Gradients as autograd sees them: numerical checks to second order, and which leaves get one."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from batchnorm.ops import batch_norm
from batchnorm.reference import ACTIVATIONS
from tests.conformance.comparison import LEAVES, each_backend, each_of_ours, run
from tests.strategies import Case
from tests.tolerances import CURVES

DOUBLE = {"dtype": torch.float64, "parameters": torch.float64}


def function_and_leaves(activation, training, backend, shape=(4, 2, 3), **options):
    case = Case(shape, activation=activation, spread=2.0, residual="contiguous", seed=5, **DOUBLE)
    tensors = case.tensors()
    leaves = [getattr(tensors, name).requires_grad_() for name in LEAVES]

    def function(input, weight, bias, residual):
        return batch_norm(
            input,
            tensors.running_mean.clone(),
            tensors.running_var.clone(),
            weight,
            bias,
            training,
            activation=activation,
            residual=residual,
            backend=backend,
            **options,
        )

    z = batch_norm(
        tensors.input,
        tensors.running_mean.clone(),
        tensors.running_var.clone(),
        tensors.weight,
        tensors.bias,
        training,
        residual=tensors.residual,
        backend="eager",
    )
    for corner in CURVES[activation].corners:
        assert (z - corner).abs().min() > 1e-3, (
            "a difference across a corner is no slope: choose another seed"
        )
    return function, leaves


each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
each_mode = pytest.mark.parametrize("training", [True, False])


@each_backend
@each_activation
@each_mode
def test_gradcheck(backend, activation, training):
    function, leaves = function_and_leaves(activation, training, backend)
    assert gradcheck(function, leaves, check_forward_ad=True)


@each_backend
@each_activation
@each_mode
def test_gradgradcheck(backend, activation, training):
    function, leaves = function_and_leaves(activation, training, backend)
    assert gradgradcheck(function, leaves)


@each_backend
@each_mode
def test_gradgradcheck_without_parameters_and_residual(backend, training):
    function, leaves = function_and_leaves("tanh", training, backend)
    assert gradgradcheck(lambda input: function(input, None, None, None), leaves[:1])


@each_of_ours
@each_mode
def test_a_tangent_of_the_gradient_passes_through_backward(backend, training):
    function, leaves = function_and_leaves("tanh", training, backend)
    output = function(*leaves)
    directions = torch.randn_like(output), torch.randn_like(output)
    expected, along = (torch.autograd.grad(output, leaves, d, retain_graph=True) for d in directions)
    with forward_ad.dual_level():
        gradients = torch.autograd.grad(output, leaves, forward_ad.make_dual(*directions))
        for values, *wanted in zip(gradients, expected, along, strict=True):
            torch.testing.assert_close(list(forward_ad.unpack_dual(values)), wanted)


@each_backend
@each_mode
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    "wanted", [c for k in range(1, 5) for c in itertools.combinations(LEAVES, k)], ids=str
)
def test_only_leaves_that_want_a_gradient_get_one(backend, training, activation, wanted):
    case = Case((4, 3, 5), activation=activation, residual="contiguous")
    _, all_gradients = run(case, case.tensors(), backend, training=training)
    tensors = case.tensors()
    for name in wanted:
        getattr(tensors, name).requires_grad_()
    output = batch_norm(
        tensors.input,
        tensors.running_mean,
        tensors.running_var,
        tensors.weight,
        tensors.bias,
        training,
        activation=activation,
        residual=tensors.residual,
        backend=backend,
    )
    output.backward(tensors.grad_output)
    for name in LEAVES:
        gradient = getattr(tensors, name).grad
        assert (gradient is not None) == (name in wanted)
        if gradient is not None:
            # torch may take another path when fewer gradients are wanted
            torch.testing.assert_close(gradient, all_gradients[name])


@each_backend
@each_mode
def test_no_graph_without_a_leaf_that_wants_one(backend, training):
    tensors = Case((4, 3, 5)).tensors()
    output = batch_norm(
        tensors.input, tensors.running_mean, tensors.running_var, training=training, backend=backend
    )
    assert not output.requires_grad


@each_backend
def test_changing_the_input_before_backward_is_noticed(backend):
    leaf = Case((4, 3, 5)).tensors().input.requires_grad_()
    input = leaf * 1
    output = batch_norm(input, None, None, training=True, backend=backend)
    input.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
