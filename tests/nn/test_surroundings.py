"""The layers inside what torch puts around modules: exporters, checkpoints, averages, sharded tensors."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import batchnorm as bn
from batchnorm import stats

aten = torch.ops.aten

KINDS = {
    "batch": {},
    "cumulative momentum": {"momentum": None},
    "eager": {"backend": "eager"},
    "torch": {"backend": "torch"},
    "torch, cumulative": {"backend": "torch", "momentum": None},
    "ghost": {"stats": stats.Ghost(2)},
    "renorm": {"stats": stats.Renorm(r_max=3, d_max=5)},
    "accumulated": {"stats": stats.Accumulated(2)},
    "frozen": {"stats": stats.Frozen()},
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["batch", "ghost", "renorm", "frozen"])
def test_an_exported_network_learns(kind, training, strict):
    torch.manual_seed(0)
    layer = bn.BatchNorm2d(4, activation="silu", **KINDS[kind])
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.Conv2d(4, 2, 1)).train(training)
    x = torch.randn(4, 3, 5, 5)
    exported = torch.export.export(copy.deepcopy(model), (x,), strict=strict).module()
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(model(x).pow(2).sum(), list(wanted.values()))
    found = [exported.get_parameter(name) for name in wanted]
    gradients = torch.autograd.grad(exported(x).pow(2).sum(), found)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize(
    ("kind", "masked"),
    [
        (kind, masked)
        for kind in KINDS
        for masked in (False, True)
        if not (masked and kind.startswith("torch"))
    ],
)
@pytest.mark.parametrize(
    "kept",
    [
        [aten.convolution.default],
        [aten.mul.Tensor],
        [aten.clone.default, aten._to_copy.default],
        [aten.exp.default, aten.where.self, aten.div.Tensor, aten.detach.default],
    ],
    ids=str,
)
def test_selective_checkpointing_changes_nothing(kind, kept, masked):
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    given = {"mask": x[:, 0] > -0.5} if masked else {}
    results = []
    for selective in (True, False):
        torch.manual_seed(0)
        convolution, *layers = (nn.Conv2d(3, 3, 1), *(bn.BatchNorm2d(3, **KINDS[kind]) for _ in range(3)))

        def network(z, layers=layers, convolution=convolution):
            first, second, third = layers
            y = second(convolution(first(z, **given) * 2.0), **given)
            return third(torch.exp(y * 3 * z - z + 1), **given)

        z = x.clone().requires_grad_()
        contexts = functools.partial(create_selective_checkpoint_contexts, kept)
        y = checkpoint(network, z, use_reentrant=False, context_fn=contexts) if selective else network(z)
        y.pow(3).sum().backward()
        results.append((z.grad, *(buffer for layer in layers for buffer in layer.buffers())))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("training", [True, False])
def test_without_an_activation_the_bias_may_change_before_the_backward_pass(training):
    layer = bn.BatchNorm2d(3).train(training)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    y = layer(x)
    with torch.no_grad():
        layer.bias.add_(1)
    y.sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((3,), 100.0))


@pytest.mark.parametrize("assign", [False, True])
def test_a_counter_of_another_dtype_is_loaded_as_a_counter(assign):
    layer = bn.BatchNorm2d(3)
    layer.load_state_dict({k: v.float() for k, v in bn.BatchNorm2d(3).state_dict().items()}, assign=assign)
    layer(torch.randn(4, 3, 5, 5))
    assert layer.num_batches_tracked.dtype == torch.int64
    assert layer.num_batches_tracked == 1


def test_torchs_update_bn_gives_the_mean_over_all_batches_and_leaves_frozen_statistics():
    batches = [torch.randn(4, 3, 6, 6) + level for level in range(3)]
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    for kind in (stats.Batch(), stats.Scheduled(0.1, 0.01, 10)):
        layer = bn.BatchNorm2d(3, stats=kind)
        update_bn(batches, layer)
        torch.testing.assert_close(layer.running_mean, mean)
    frozen = bn.BatchNorm2d(3, stats=stats.Frozen())
    frozen.running_mean.fill_(7.0)
    update_bn(batches, frozen)
    assert frozen.running_mean.tolist() == [7.0] * 3


def test_vmap_over_a_layer_compiles():
    layer = bn.BatchNorm2d(3, activation="relu").eval()
    x = torch.randn(2, 4, 3, 6, 6)
    compiled = torch.compile(torch.func.vmap(layer.forward), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), torch.stack([layer(part) for part in x]))


def test_sharded_tensors_are_normalized_by_torch(tmp_path):
    from torch.distributed.tensor import DeviceMesh, Replicate, distribute_module, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])
        x = torch.randn(4, 3, 6, 6)
        layer = bn.BatchNorm2d(3, activation="relu")
        expected = layer(x)
        y = distribute_module(layer, mesh)(distribute_tensor(x, mesh, [Replicate()]))
        torch.testing.assert_close(y.full_tensor(), expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("cast", [lambda m: m.type(torch.float64), lambda m: m._apply(torch.Tensor.double)])
def test_cast_whole_a_layer_still_counts(cast):
    layer = cast(bn.BatchNorm2d(3))
    layer(torch.randn(4, 3, 2, 2, dtype=torch.float64))
    assert layer.num_batches_tracked.dtype == torch.int64
    assert (layer.num_batches_tracked, layer.running_mean.dtype) == (1, torch.float64)


@pytest.mark.parametrize("training", [True, False])
def test_an_mkldnn_tensor_goes_to_torch(training):
    layer, x = bn.BatchNorm2d(3, activation="relu").train(training), torch.randn(4, 3, 8, 8)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(layer(x.to_mkldnn()).to_dense(), twin(x))
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["native", "eager", "torch"])
def test_channels_that_come_last_are_those_of_a_view(backend, training):
    layer = bn.BatchNorm2d(3, activation="relu", channel_dim=-1, backend=backend).train(training)
    usual = bn.BatchNorm2d(3, activation="relu", backend=backend).train(training)
    x, residual = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    expected = usual(x.movedim(-1, 1), residual.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(layer(x, residual), expected)
    torch.testing.assert_close(layer.state_dict(), usual.state_dict())
    with pytest.raises(RuntimeError, match=r"batch_norm: residual expected shape"):
        layer(x, residual.transpose(1, 2))
