"""Several processes recalibrate as one would that had all their data."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from batchnorm import recalibrate
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
    before = snapshot(model)
    try:
        recalibrate_ranks(model, loader)
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
