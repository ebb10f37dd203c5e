"""What batch renormalization remembers of forward passes that a backward pass repeats."""

import copy

import pytest
import torch
from torch.func import grad
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

S = bn.stats


def batch():
    return 3 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1


def layers(**options):
    """A layer that is repeated, and its twin that is not."""
    layer = bn.BatchNorm1d(
        3, **{"stats": S.Renorm(), "activation": "tanh", "dtype": torch.float64, **options}
    )
    return layer, copy.deepcopy(layer)


def repeated(layer, x, reentrant=False, **given):
    return checkpoint(lambda x: layer(x, **given), x, use_reentrant=reentrant)


def twice_checkpointed(layer, x):
    return checkpoint(repeated, layer, x, use_reentrant=False)


def gradients(output, layer, x, **options):
    return torch.autograd.grad(output.pow(3).sum(), [x, *layer.parameters()], **options)


@pytest.mark.parametrize("call", [repeated, twice_checkpointed])
def test_the_same_batch_step_after_step(call):
    layer, twin = layers()
    for _ in range(4):
        x = batch().requires_grad_()
        found = gradients(call(layer, x), layer, x)
        torch.testing.assert_close(found, gradients(twin(x), twin, x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_same_batch_in_several_forward_passes_before_their_backward_pass(reentrant):
    layer, twin = layers()
    inputs = [[batch().requires_grad_() for _ in range(3)] for _ in range(2)]
    for _ in range(2):
        sum(repeated(layer, x, reentrant).pow(3).sum() for x in inputs[0]).backward()
        sum(twin(x).pow(3).sum() for x in inputs[1]).backward()
    torch.testing.assert_close(*([x.grad for x in xs] for xs in inputs))


def test_a_graph_that_is_kept_is_walked_again():
    layer, twin = layers()
    for _ in range(2):
        x = batch().requires_grad_()
        output, expected = repeated(layer, x), gradients(twin(x), twin, x)
        for _ in range(2):
            torch.testing.assert_close(gradients(output, layer, x, retain_graph=True), expected)


def test_batches_of_one_mean_are_told_apart_by_their_variance():
    layer, twin = layers()
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(8)[:, None].expand(16, 3)
    inputs = [[(scale * signs).requires_grad_() for scale in (1, 2)] for _ in range(2)]
    first, second = (repeated(layer, x) for x in inputs[0])
    others = [twin(x) for x in inputs[1]]
    # the first is repeated first
    for output, x, other, y in zip((first, second), inputs[0], others, inputs[1], strict=True):
        torch.testing.assert_close(gradients(output, layer, x), gradients(other, twin, y))


def test_batches_are_told_apart_by_their_domain():
    layer, twin = layers(stats=S.Domains(2) + S.Renorm())
    for values in (layer, twin):
        values.running_mean[1] = 5
    inputs = [[batch().requires_grad_() for _ in range(2)] for _ in range(2)]
    outputs = [repeated(layer, x, domain=domain) for domain, x in enumerate(inputs[0])]
    others = [twin(x, domain=domain) for domain, x in enumerate(inputs[1])]
    for output, x, other, y in zip(outputs, inputs[0], others, inputs[1], strict=True):
        torch.testing.assert_close(gradients(output, layer, x), gradients(other, twin, y))


def test_parts_of_another_number_are_another_batch():
    layer, twin = layers(stats=S.Ghost(4) + S.Renorm())
    x, y = (batch()[:8].requires_grad_() for _ in range(2))
    output, expected = repeated(layer, x), gradients(twin(y), twin, y)
    repeated(layer, batch().requires_grad_())
    torch.testing.assert_close(gradients(output, layer, x), expected)


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_a_batch_that_is_not_finite_is_repeated(wrong):
    layer, twin = layers(nonfinite="skip")
    x = batch()
    x[0, 1] = wrong
    x.requires_grad_()
    found = gradients(repeated(layer, x), layer, x)
    torch.testing.assert_close(found, gradients(twin(x), twin, x), equal_nan=True)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_a_batch_that_is_not_remembered_is_refused():
    layer, _ = layers()
    output = repeated(layer, batch().requires_grad_())
    layer.corrections.clear()
    with pytest.raises(RuntimeError, match="to have the statistics of one of the last 0, got others"):
        output.sum().backward()


def test_transforms_leave_nothing_behind():
    layer, _ = layers()
    grad(lambda x: layer(x).sum())(batch())
    assert not layer.corrections
    copy.deepcopy(layer)
