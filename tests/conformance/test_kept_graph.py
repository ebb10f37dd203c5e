"""A backward pass that is differentiated itself gives the gradients of one that is not, to the last digits.

The inputs of a layer may depend on each other: the residual on what the input comes from, the second
call of a layer on the first. A gradient is of one input, the others held.
"""

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_sequence

import batchnorm as bn
from tests.conformance.comparison import NATIVE
from tests.conformance.test_family import STATISTICS
from tests.nn.test_statistics import KINDS, arguments_for

SAMPLES = 8
EVERY_KIND = [*KINDS, *(stats for stats in STATISTICS.values() if stats not in KINDS)]
MASKS = {
    "whole": None,
    "positions": torch.arange(SAMPLES * 4).view(SAMPLES, 4) % 5 > 0,
    "channels": torch.arange(SAMPLES * 3 * 4).view(SAMPLES, 3, 4) % 7 > 0,
    "weights": (torch.arange(SAMPLES * 4.0).view(SAMPLES, 4) % 5).double(),
}


def residual_block(layer, convolution, x, **given):
    return layer(convolution(x), residual=x, **given)


def input_as_residual(layer, convolution, x, **given):
    return layer(x, residual=x, **given)


def applied_twice(layer, convolution, x, **given):
    return layer(convolution(layer(x, **given)), **given)


def check_gradients(output, leaves):
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    plain = torch.autograd.grad(output, leaves, grad, retain_graph=True, allow_unused=True)
    kept = torch.autograd.grad(output, leaves, grad, create_graph=True, allow_unused=True)
    torch.testing.assert_close(kept, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize("network", [residual_block, input_as_residual, applied_twice])
@pytest.mark.parametrize(("training", "mask"), [*((True, mask) for mask in MASKS), (False, "whole")])
@pytest.mark.parametrize("stats", EVERY_KIND, ids=str)
def test_inputs_that_depend_on_each_other(stats, training, mask, network, backend):
    torch.manual_seed(0)
    layer = bn.BatchNorm1d(3, stats=stats, activation="silu", backend=backend, dtype=torch.float64)
    layer.running_mean.normal_()
    convolution = torch.nn.Conv1d(3, 3, 3, padding=1, dtype=torch.float64)
    x = torch.randn(SAMPLES, 3, 4, dtype=torch.float64, requires_grad=True)
    output = network(layer.train(training), convolution, x, mask=MASKS[mask], **arguments_for(stats))
    check_gradients(output, [x, *(p for p in layer.parameters() if p.requires_grad)])


@pytest.mark.parametrize("network", [residual_block, input_as_residual, applied_twice])
def test_a_domain_for_each_sample(network):
    torch.manual_seed(0)
    layer = bn.BatchNorm1d(3, stats=bn.stats.Domains(2), dtype=torch.float64)
    convolution = torch.nn.Conv1d(3, 3, 3, padding=1, dtype=torch.float64)
    x = torch.randn(SAMPLES, 3, 4, dtype=torch.float64, requires_grad=True)
    output = network(layer, convolution, x, domain=torch.tensor([0, 1, 1, 0, 1, 0, 0, 1]))
    check_gradients(output, [x, *layer.parameters()])


def test_steps_of_a_recurrent_layer():
    torch.manual_seed(0)
    lstm = bn.BatchNormLSTM(2, 3, 2, max_steps=3, beyond="last", bidirectional=True, dtype=torch.float64)
    sequences = [torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (5, 5, 4, 2)]
    output, _ = lstm(pack_sequence(sequences))
    check_gradients(output.data, [*sequences, *lstm.parameters()])


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize("stats", EVERY_KIND, ids=str)
def test_a_tangent_of_the_gradient_passes_through_backward(stats, backend):
    layer = bn.BatchNorm1d(3, stats=stats, activation="silu", backend=backend, dtype=torch.float64)
    x, *directions = torch.randn(3, SAMPLES, 3, 4, dtype=torch.float64).unbind()
    output = layer(x.requires_grad_(), **arguments_for(stats))
    expected = [torch.autograd.grad(output, x, direction, retain_graph=True)[0] for direction in directions]
    with forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(output, x, forward_ad.make_dual(*directions))
        torch.testing.assert_close(list(forward_ad.unpack_dual(gradient)), expected)
