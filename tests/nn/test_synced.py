"""Synced statistics in real processes against one process on the whole batch."""

import contextlib
import copy
import itertools
import os
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.ops.collective import ranks_of
from tests.processes import in_processes

Synced, Renorm, Domains = bn.stats.Synced, bn.stats.Renorm, bn.stats.Domains

SPLITS = {
    2: [(4, 4), (7, 1), (8, 0)],
    3: [(3, 3, 2), (7, 1, 0), (0, 8, 0)],
    4: [(2, 2, 2, 2), (5, 1, 1, 1), (8, 0, 0, 0)],
}
KINDS = {
    "batch": bn.stats.Batch(),
    "renorm": Renorm(1.3, 0.2),
    "domains": Domains(3),
    "accumulated": bn.stats.Accumulated(2),
}
MASKS = (None, "positions", "weights", "channels")
PAIRS = list(itertools.product(MASKS[:3], repeat=2))


def batch(mask, dtype=torch.float64):
    """The whole batch: input, residual, gradient, mask, domains."""
    generator = torch.Generator().manual_seed(0)
    shape = (8, 3, 4, 5)
    x, residual, grad = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)
    )
    drawn = torch.rand(8, 4, 5, generator=generator)
    masks = {
        None: None,
        "positions": drawn < 0.6,
        "weights": torch.where(drawn < 0.3, 0, drawn).to(dtype),
        "channels": torch.rand(shape, generator=generator) < 0.6,
    }
    return 3 * x + 1, residual, grad, masks[mask], torch.randint(3, (8,), generator=generator)


def layer_of(kind, synced, **options):
    stats = KINDS[kind] if not synced else Synced() if kind == "batch" else Synced() + KINDS[kind]
    layer = bn.BatchNorm2d(3, stats=stats, activation="silu", dtype=torch.float64, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        layer.bias.copy_(torch.tensor([0.5, 0.1, -1.0]))
    return layer


def step(layer, kind, x, residual, grad, mask, domain):
    """Two steps: outputs and gradients of the second, then the buffers."""
    for _ in range(2):
        leaves = [x.detach().clone().requires_grad_(), residual.detach().clone().requires_grad_()]
        called_with = {"domain": domain} if kind == "domains" else {}
        y = layer(*leaves, mask=mask, **called_with)
        found = torch.autograd.grad(y, [*leaves, layer.weight, layer.bias], grad)
    return y.detach(), *found, *(buffer.clone() for buffer in layer.buffers())


def all_kinds(rank, splits):
    """Every kind, mask and split on this rank's share."""
    results = {}
    for kind in KINDS:
        for mask in MASKS:
            for split in splits:
                share = [None if v is None else v.split(split)[rank] for v in batch(mask)]
                results[kind, mask, split] = step(layer_of(kind, True), kind, *share)
    return results


@pytest.mark.parametrize("world", SPLITS)
def test_processes_together_are_one_process_on_the_whole_batch(world):
    of_ranks = in_processes(world, all_kinds, SPLITS[world])
    for kind, mask, split in of_ranks[0]:
        whole = step(layer_of(kind, False), kind, *batch(mask))
        y, grad_x, grad_residual, grad_weight, grad_bias, *buffers = zip(
            *(results[kind, mask, split] for results in of_ranks), strict=True
        )
        together = torch.cat(y), torch.cat(grad_x), torch.cat(grad_residual), sum(grad_weight), sum(grad_bias)
        for found, expected in zip(together, whole, strict=False):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        for of_each, expected in zip(buffers, whole[5:], strict=True):
            for found in of_each:
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def each_its_own(rank):
    """A step of each pair of masks, of two ranks."""
    return {
        (masks, excluded): step(layer_of("renorm", True, excluded=excluded), "renorm", *share)
        for masks, excluded, share in (
            (masks, excluded, [None if v is None else v.split((5, 3))[rank] for v in batch(masks[rank])])
            for masks in PAIRS
            for excluded in ("zero", "normalize")
        )
    }


def test_each_rank_may_have_a_mask_of_another_kind():
    of_ranks = in_processes(2, each_its_own)
    for masks, excluded in of_ranks[0]:
        whole = batch(None)
        parts = [
            torch.ones(8, 4, 5, dtype=torch.float64) if mask is None else batch(mask)[3].double()
            for mask in masks
        ]
        mask = torch.cat([part.split((5, 3))[rank] for rank, part in enumerate(parts)])
        layer = layer_of("renorm", False, excluded=excluded)
        expected = step(layer, "renorm", *whole[:3], mask, whole[4])
        first, second = (results[masks, excluded] for results in of_ranks)
        found = [torch.cat(pair) for pair in zip(first[:3], second[:3], strict=True)]
        found += [a + b for a, b in zip(first[3:5], second[3:5], strict=True)]
        for ours, theirs in zip([*found, *first[5:]], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def counted(rank):
    """Collectives of a step: in the forward pass, in the backward pass, in prediction, of a group of one."""
    calls = []
    group = dist.new_group([rank], use_local_synchronization=True)
    names = ("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "broadcast")
    real = {name: getattr(dist, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        for name in real:

            def call(*args, name=name, **options):
                calls.append(name)
                return real[name](*args, **options)

            patch.setattr(dist, name, call)
        layer, x = layer_of("batch", True), torch.randn(2 + rank, 3, 2, 2, dtype=torch.float64)
        ends = [0]
        layer(x)  # the first step makes sure that all ranks mean the same layer
        ends.append(len(calls))
        y = layer(x.requires_grad_())
        ends.append(len(calls))
        y.sum().backward()
        ends.append(len(calls))
        layer.eval()(x)
        ends.append(len(calls))
        bn.BatchNorm2d(3, stats=Synced(group))(x.float())
        ends.append(len(calls))
        copy.deepcopy(layer).train()(x)
        ends.append(len(calls))
    return [calls[start:end] for start, end in itertools.pairwise(ends)]


def test_a_step_takes_one_collective_forward_and_one_backward():
    for first, *passes, first_of_a_copy in in_processes(2, counted):
        assert passes == [["all_gather"], ["all_reduce"], [], []]
        assert first == first_of_a_copy == ["all_gather", "all_gather"]


def distributed(rank):
    """Gradients of a network under DDP, two micro-batches, the first without a reduction of gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), layer_of("batch", True)).double()
    ddp = DistributedDataParallel(model)
    x, _, grad, *_ = batch(None)
    for micro, context in ((0, ddp.no_sync()), (1, contextlib.nullcontext())):
        samples = slice(4 * micro + 2 * rank, 4 * micro + 2 * rank + 2)
        with context:
            (ddp(x[samples]) * grad[samples]).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())


def test_ddp_with_accumulated_gradients_is_one_process():
    of_ranks = in_processes(2, distributed)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), layer_of("batch", False)).double()
    x, _, grad, *_ = batch(None)
    for micro in (slice(0, 4), slice(4, 8)):
        (model(x[micro]) * grad[micro]).sum().backward()
    for gradients, buffers in of_ranks:
        for name, p in model.named_parameters():
            torch.testing.assert_close(2 * gradients[name], p.grad, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(buffers, dict(model.named_buffers()), rtol=1e-12, atol=1e-12)


def second_derivative(layer, x, grad, mask):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(x, mask=mask), x, grad, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


def twice(rank, kind, compiled):
    x, _, grad, mask, _ = batch(kind)
    parts = (None if v is None else v.split((5, 3))[rank] for v in (x, grad, mask))
    layer = layer_of("batch", True)
    if compiled:
        layer = torch.compile(layer, backend="eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # torch renames its functional collectives
        return second_derivative(layer, *parts)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", MASKS[:3])
def test_second_derivatives_cross_the_ranks(kind, compiled):
    x, _, grad, mask, _ = batch(kind)
    expected = second_derivative(layer_of("batch", False), x, grad, mask)
    found = torch.cat(in_processes(2, twice, kind, compiled))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def repeated(rank, reentrant):
    layer = layer_of("renorm", True)
    x = batch(None)[0].split((5, 3))[rank].requires_grad_()
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    return x.grad, layer.running_mean, layer.num_batches_tracked


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_synchronizes_again_and_moves_once(reentrant):
    layer, x = layer_of("renorm", False), batch(None)[0].requires_grad_()
    layer(x).square().sum().backward()
    results = in_processes(2, repeated, reentrant)
    torch.testing.assert_close(torch.cat([r[0] for r in results]), x.grad, rtol=1e-10, atol=1e-10)
    for _, running_mean, tracked in results:
        torch.testing.assert_close(running_mean, layer.running_mean, rtol=1e-12, atol=1e-12)
        assert tracked == 1


def compiled(rank):
    layer = layer_of("batch", True)
    twin, x = copy.deepcopy(layer), batch(None)[0].split((5, 3))[rank]
    outputs = []
    for function in (layer, torch.compile(twin, fullgraph=True, backend="aot_eager")):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.square().sum().backward()
        outputs.append((y.detach(), leaf.grad))
    return outputs, layer.running_var, twin.running_var


def test_it_compiles_without_a_graph_break():
    for (eager, graph), running, running_compiled in in_processes(2, compiled):
        torch.testing.assert_close(graph, eager, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(running_compiled, running, rtol=1e-12, atol=1e-12)


def in_subgroups(rank):
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    layer = bn.BatchNorm2d(3, stats=Synced(groups[rank % 2]), dtype=torch.float64)
    layer(batch(None)[0].split(2)[rank])
    try:
        bn.BatchNorm2d(3, stats=Synced(groups[1 - rank % 2]))(torch.randn(4, 3, 2, 2))
    except ValueError as error:
        return layer.running_mean, str(error)


def test_subgroups_are_synchronized_apart_and_strangers_are_refused():
    results = in_processes(4, in_subgroups)
    x = batch(None)[0]
    for rank, (running_mean, error) in enumerate(results):
        mine = torch.cat([x.split(2)[r] for r in range(rank % 2, 4, 2)])
        torch.testing.assert_close(running_mean, 0.1 * mine.mean((0, 2, 3)), rtol=1e-12, atol=1e-12)
        assert "group of layer BatchNorm2d (num_features 3) expected this process among its members" in error


def disagreeing(rank):
    layer = bn.BatchNorm2d(3 + rank, stats=Synced())
    layer.label = "stem.norm"
    try:
        layer(torch.randn(2, 3 + rank, 2, 2))
    except ValueError as error:
        return str(error)


def test_ranks_that_disagree_on_the_channels_all_hear_of_it():
    for rank, error in enumerate(in_processes(2, disagreeing)):
        assert error == (
            f"batch_norm: layer stem.norm (num_features {3 + rank}) expected the same num_features on all "
            "ranks of its group, got 3, 4"
        )


def dying(rank):
    layer = layer_of("batch", True)
    layer.label = "stem.norm"
    y = layer(torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True))
    if rank == 1:
        os._exit(3)  # without a word
    try:
        y.sum().backward()
    except RuntimeError as error:
        return str(error)


def test_a_rank_that_dies_is_an_error_that_names_the_layer():
    error, dead = in_processes(2, dying, timeout_s=20)
    assert dead.args == (3,)
    assert error.startswith(
        "batch_norm: layer stem.norm (num_features 3) expected all 2 ranks of its group to take part"
    )
    assert "\n" not in error


def nothing_true(rank):
    x, mask = torch.randn(2, 3, 2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)
    layer = bn.BatchNorm2d(3, stats=Synced())
    mask[:, 0] = rank == 0
    layer(x, mask=mask)
    try:
        layer(x, mask=torch.zeros_like(mask))
    except ValueError as error:
        return str(error)


def test_a_mask_without_a_true_value_is_fine_on_one_rank_and_refused_on_all():
    assert (
        in_processes(2, nothing_true)
        == ["batch_norm: mask expected a true value, got none in any process of the group"] * 2
    )


def one_value(rank):
    try:
        bn.BatchNorm1d(3, stats=Synced())(torch.randn(1 - rank, 3))
    except ValueError as error:
        return str(error)


def test_one_value_in_all_processes_is_refused_by_all():
    assert all("expected more than 1 value per channel" in error for error in in_processes(2, one_value))


def test_one_process_needs_no_group_and_changes_nothing():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 2)
    ours, plain = bn.BatchNorm2d(3, stats=Synced()), bn.BatchNorm2d(3)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.running_var, plain.running_var)
    assert ranks_of(None, "a layer") is None


def of_a_world_that_is_no_more(rank, store):
    group = dist.new_group([0, 1])
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        bn.BatchNorm1d(3, stats=Synced(group))(torch.randn(4, 3))
    except ValueError as error:
        return str(error)


def test_a_group_of_another_world_is_refused(tmp_path):
    for error in in_processes(2, of_a_world_that_is_no_more, tmp_path / "store"):
        assert "group of layer BatchNorm1d (num_features 3) expected a process group of this world" in error
        assert "\n" not in error


def test_synced_layers_copy_and_pickle():
    layer = bn.BatchNorm2d(3, stats=Synced())
    assert copy.deepcopy(layer).stats == pickle.loads(pickle.dumps(layer)).stats == Synced()
    with pytest.raises(TypeError, match="group expected None to be pickled"):
        pickle.dumps(Synced(object()))
