import pytest
import torch
import torch.distributed as dist
from torch import nn

from batchnorm import BatchNorm1d, reduce_running_stats
from tests.processes import in_processes


def network():
    return nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(BatchNorm1d(3)), nn.SyncBatchNorm(3))


def data(rank):
    """What a rank has seen: as wide as on the others, but somewhere else."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(200, 3, generator=generator, dtype=torch.float64) + 5 * rank


def buffers(model):
    return {name: buffer.tolist() for name, buffer in model.named_buffers()}


def trained(rank):
    """A network whose running statistics are exactly those of the rank's data."""
    model = network()
    for layer in (model[0], model[1][0], model[2]):
        layer.running_mean.copy_(data(rank).mean(0))
        layer.running_var.copy_(data(rank).var(0, correction=0))
        layer.num_batches_tracked.fill_(4 + rank)
    return model


def reduced(rank):
    calls = []
    gather = dist.all_gather_object
    dist.all_gather_object = lambda *args, **kwargs: calls.append(1) or gather(*args, **kwargs)
    model = trained(rank)
    before = {name: id(buffer) for name, buffer in model.named_buffers()}
    reduce_running_stats(model)
    assert before == {name: id(buffer) for name, buffer in model.named_buffers()}
    return buffers(model), len(calls)


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_get_the_statistics_of_all_data_in_one_collective(size):
    answers = in_processes(size, reduced)
    everything = torch.cat([data(rank) for rank in range(size)])
    for values, calls in answers:
        assert calls == 1
        assert values == answers[0][0]
        for layer in ("0", "1.0", "2"):
            mean, var = (torch.tensor(values[f"{layer}.running_{key}"]) for key in ("mean", "var"))
            torch.testing.assert_close(mean, everything.mean(0).float())
            torch.testing.assert_close(var, everything.var(0, correction=0).float())
            assert values[f"{layer}.num_batches_tracked"] == 3 + size


def in_pairs(rank):
    groups = [dist.new_group([0]), dist.new_group([1, 2])]
    model = trained(rank)
    reduce_running_stats(model, groups[rank > 0])
    rows = nn.BatchNorm1d(3)
    rows.running_mean = torch.stack([data(rank).mean(0), data(rank).mean(0) + 1]).float()
    rows.running_var = torch.ones(2, 3)
    rows.num_batches_tracked = torch.tensor([rank, 7])
    reduce_running_stats(rows)
    return buffers(model), buffers(rows)


def test_a_group_is_left_to_itself_and_rows_of_a_layer_are_merged_each_for_itself():
    (alone, _), *pairs = in_processes(3, in_pairs)
    pair = [values for values, _ in pairs]
    assert alone == buffers(trained(0))
    assert pair[0] == pair[1]
    expected = torch.cat([data(1), data(2)]).mean(0).float()
    torch.testing.assert_close(torch.tensor(pair[0]["0.running_mean"]), expected)
    rows = pairs[0][1]
    means = torch.stack([data(rank).mean(0) for rank in range(3)]).mean(0).float()
    torch.testing.assert_close(torch.tensor(rows["running_mean"]), torch.stack([means, means + 1]))
    assert rows["num_batches_tracked"] == [2, 7]


MODELS = {
    "channels": lambda rank: nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3 + rank)),
    "names": lambda rank: nn.Sequential(*[nn.BatchNorm1d(3) for _ in range(1 + rank)]),
    "none": lambda rank: nn.BatchNorm1d(3, track_running_stats=False),
}


def disagreeing(rank):
    words = {}
    for name, model in MODELS.items():
        with pytest.raises(ValueError, match="reduce_running_stats: ") as caught:
            reduce_running_stats(model(rank))
        words[name] = str(caught.value)
    return words


def test_ranks_that_disagree_all_hear_which_layer():
    expected = "reduce_running_stats: layer '1' expected the same on all ranks, got"
    for words in in_processes(2, disagreeing):
        assert words == {
            "channels": f"{expected} (3,) on rank 0 and (4,) on rank 1",
            "names": f"{expected} no such layer on rank 0 and (3,) on rank 1",
            "none": (
                "reduce_running_stats: model expected a batch-norm layer with running statistics, got none"
            ),
        }


def test_without_a_group_there_is_an_error():
    with pytest.raises(RuntimeError, match=r"group expected torch\.distributed to be initialized, got none"):
        reduce_running_stats(network())
