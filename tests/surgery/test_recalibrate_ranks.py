"""Several processes recalibrate as one would that had all their data."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from batchnorm import BatchNorm1d, recalibrate
from batchnorm.surgery import recalibrate_ranks
from tests.processes import in_processes
from tests.surgery.networks import Images, snapshot

SIZES = [[8, 3], [5], [4, 4, 1]]  # of the batches of each rank


def data(rank):
    """Each rank's batches lie elsewhere, so that most of the variance is between ranks."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(size, 2, 8, 8, generator=generator) * (1 + rank) + 6 * rank for size in SIZES[rank]]


def buffers(model):
    return {name: buffer.tolist() for name, buffer in model.named_buffers()}


def measured(rank):
    model = Images()
    report = recalibrate_ranks(model, data(rank))
    return buffers(model), [
        (layer.name, layer.count, layer.batches, layer.samples) for layer in report.layers
    ]


def test_all_ranks_get_the_statistics_of_all_data():
    answers = in_processes(3, measured)
    alone = Images()
    report = recalibrate(alone, [batch for rank in range(3) for batch in data(rank)])
    for values, layers in answers:
        assert values == answers[0][0]
        assert layers == [(layer.name, layer.count, layer.batches, layer.samples) for layer in report.layers]
        for name, expected in alone.named_buffers():
            torch.testing.assert_close(torch.tensor(values[name]), expected, rtol=1e-6, atol=1e-6)


def in_one_group(rank):
    group = dist.new_group([0, 2])
    model = Images()
    if rank != 1:
        recalibrate_ranks(model, data(rank), group, batches=1)
    return buffers(model)


def test_a_group_merges_only_its_own():
    answers = in_processes(3, in_one_group)
    alone = Images()
    recalibrate(alone, [data(0)[0], data(2)[0]])
    assert answers[1] == buffers(Images())
    for name, expected in alone.named_buffers():
        torch.testing.assert_close(torch.tensor(answers[2][name]), expected, rtol=1e-6, atol=1e-6)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.never = BatchNorm1d(2), BatchNorm1d(2)

    def forward(self, x, mask):
        return self.never(self.norm(x, mask=mask), mask=torch.zeros_like(mask))


def masked(rank):
    x = torch.arange(8.0).reshape(4, 2)
    model = Masked()
    report = recalibrate_ranks(model, [{"x": x, "mask": torch.full((4,), rank > 0)}])
    return model.norm.running_mean.tolist(), [layer.count for layer in report.layers], report.untouched


def test_a_rank_whose_data_do_not_count_adds_nothing():
    assert in_processes(2, masked) == [([3.0, 4.0], [4], {"never": "not reached by the data"})] * 2


def named_once(rank):
    model = Images()
    report = recalibrate_ranks(model, data(rank), layers=(name for name in ["norm"]))
    return [layer.name for layer in report.layers]


def test_names_of_layers_may_come_from_a_generator():
    assert in_processes(2, named_once) == [["norm"]] * 2


class Breaking:
    def __init__(self, rank):
        self.rank, self.passes = rank, 0

    def __iter__(self):
        self.passes += 1
        yield from data(self.rank)
        if self.rank == 1 and self.passes == 3:  # the second layer; the first pass looks at one batch
            raise KeyError("gone")


def twice():
    norm = nn.BatchNorm2d(2)
    return nn.Sequential(norm, norm)


def failing(rank, kind):
    model, loader = Images(), data(rank)
    if kind == "loader":
        loader = Breaking(rank)
    elif kind == "empty":
        loader = loader if rank else []
    elif kind == "twice":
        model = twice()
    elif kind == "once":
        loader = iter(loader)
    elif kind == "other":
        model = model if rank else nn.Sequential(nn.BatchNorm2d(2))
    elif kind == "wrapped":
        model = nn.parallel.DistributedDataParallel(model)
    elif kind == "none":
        model = nn.Sequential(nn.Conv2d(2, 2, 1))
    before = snapshot(model)
    try:
        recalibrate_ranks(model, loader, batches=rank if kind == "limit" else None)
    except (KeyError, RuntimeError, ValueError) as error:
        return type(error).__name__, str(error), snapshot(model) == before
    return None


@pytest.mark.parametrize(
    ("kind", "own", "words"),
    [
        ("loader", 1, "KeyError: 'gone'"),
        ("empty", 0, "recalibrate: loader expected one batch or more, got none"),
        ("once", None, "loader expected one that can be passed over again"),
        ("twice", None, "each once, got 0, 0; 0, 0"),
        ("other", None, "each once, got 0; features.1, norm"),
        ("wrapped", None, "got DistributedDataParallel; give its module"),
        ("none", None, "recalibrate: model expected a batch-norm layer to change, got none"),
        ("limit", 0, "recalibrate: batches expected a whole number of 1 or more, got 0"),
    ],
)
def test_a_failure_of_one_rank_is_one_of_all_and_changes_no_model(kind, own, words):
    for rank, (name, text, unchanged) in enumerate(in_processes(2, failing, kind)):
        assert unchanged
        assert words in f"{name}: {text}"
        if own is not None:
            assert (name == "RuntimeError") == (rank != own)


def test_it_needs_processes():
    with pytest.raises(RuntimeError, match=r"group expected torch.distributed to be initialized, got none"):
        recalibrate_ranks(Images(), data(0))
