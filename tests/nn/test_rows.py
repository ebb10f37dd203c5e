"""Layers with a row of running statistics for each domain or step: all rows at once, or one by one."""

import copy

import pytest
import torch

import batchnorm as bn

ROWS = {"domain": bn.stats.Domains(3), "step": bn.stats.PerStep(3)}
SIZES = [4, 3, 1]


def layers(stats):
    torch.manual_seed(0)
    layer = bn.BatchNorm1d(2, stats=stats, activation="tanh", dtype=torch.float64)
    with torch.no_grad():
        for values in (layer.weight, layer.bias, layer.running_mean):
            values.normal_()
        layer.running_var.uniform_(0.5, 2.0)
        layer.num_batches_tracked.copy_(torch.arange(3))
    return layer, copy.deepcopy(layer)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("choice", ROWS)
def test_row_by_row_is_all_rows_at_once(choice, training, momentum):
    whole, single = layers(ROWS[choice])
    x, residual, grad = torch.randn(3, sum(SIZES), 2, dtype=torch.float64).unbind()
    results = []
    for layer in (whole, single):
        layer.train(training)
        layer.momentum = momentum
        leaves = [x.clone().requires_grad_(), residual.clone().requires_grad_(), *layer.parameters()]
        if layer is whole:
            at = SIZES if choice == "step" else torch.tensor([0] * 4 + [1] * 3 + [2])
            y = layer(*leaves[:2], **{choice: at})
        else:
            parts = zip(*(leaf.split(SIZES) for leaf in leaves[:2]), strict=True)
            y = torch.cat([layer(*part, **{choice: row}) for row, part in enumerate(parts)])
        results.append((y, torch.autograd.grad(y, leaves, grad), dict(layer.named_buffers())))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mask", [None, torch.tensor([True]), torch.tensor([[True, True]])])
@pytest.mark.parametrize("choice", ROWS)
def test_a_single_value_is_normalized_with_its_row_which_stays(choice, mask):
    layer, before = layers(ROWS[choice])
    x = torch.randn(1, 2, dtype=torch.float64)
    y = layer(x, mask=mask, **{choice: 1})
    torch.testing.assert_close(y, before.eval()(x, **{choice: 1}))
    torch.testing.assert_close(layer.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_the_row_of_a_single_value_may_move_before_the_backward_pass():
    layer, _ = layers(ROWS["step"])
    x = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    y = layer(x, step=1)
    expected = (layer.weight / (layer.running_var[1] + layer.eps).sqrt() * (1 - y**2)).detach()
    layer(torch.randn(4, 2, dtype=torch.float64), step=1)
    y.sum().backward()
    torch.testing.assert_close(x.grad[0], expected[0])


class _SecondDomain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, _ = layers(ROWS["domain"])

    def forward(self, x):
        return self.norm(x, domain=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's tracer deprecates its own steps
@pytest.mark.parametrize("strict", [True, False])
def test_a_prediction_for_one_domain_is_exported_for_any_batch_size(strict):
    network, x = _SecondDomain().eval(), torch.randn(4, 2, dtype=torch.float64)
    sizes = ({0: torch.export.Dim("n")},)
    exported = torch.export.export(network, (x,), dynamic_shapes=sizes, strict=strict).module()
    torch.testing.assert_close(exported(x[:3]), network(x[:3]))
