import contextlib

import pytest
import torch
from torch import nn

from batchnorm.surgery import LayerStatistics, population_statistics, swapped_statistics
from tests.surgery.networks import mlp, shuffled, snapshot


def statistics(mean, var):
    return LayerStatistics(torch.tensor(mean), torch.tensor(var), 10, 1, 10, 0, 0.1)


def test_layers_predict_with_the_given_statistics_inside_and_their_own_outside():
    layer = nn.BatchNorm1d(2, eps=0.0).eval()
    x = torch.tensor([[4.0, 4.0]])
    with swapped_statistics(layer, {"": statistics([1.0, 2.0], [9.0, 4.0])}):
        assert layer(x).tolist() == [[1.0, 1.0]]
    assert layer(x).tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_back_to_the_bit_whatever_happens_inside(error):
    model, data = mlp(momentum=None), shuffled()
    population = population_statistics(model, data)
    for batch in data[:3]:
        model(batch)
    before = snapshot(model)
    with contextlib.suppress(ValueError, KeyboardInterrupt), swapped_statistics(model, population):
        model(data[4])  # in training mode: updates go to the exchanged statistics
        assert model[1].num_batches_tracked == 4
        if error:
            raise error
    assert snapshot(model) == before


def test_given_statistics_are_not_written_to():
    layer, given = nn.BatchNorm1d(1).double(), statistics([1.0], [2.0])
    given = LayerStatistics(given.mean.double(), given.var.double(), 10, 1, 10, 0, 0.1)
    with swapped_statistics(layer, {"": given}):
        layer(torch.randn(5, 1).double())
    assert (given.mean.item(), given.var.item()) == (1.0, 2.0)


def test_buffers_keep_their_dtype_and_a_lost_counter_stays_lost():
    layer = nn.BatchNorm1d(1).half()
    layer.num_batches_tracked = None
    with swapped_statistics(layer, {"": statistics([1.0], [2.0])}):
        assert layer.running_mean.dtype is torch.float16
        assert layer.num_batches_tracked is None


def test_swaps_nest():
    layer = nn.BatchNorm1d(1).eval()
    with swapped_statistics(layer, {"": statistics([1.0], [1.0])}):
        with swapped_statistics(layer, {"": statistics([2.0], [1.0])}):
            assert layer.running_mean.item() == 2.0
        assert layer.running_mean.item() == 1.0
    assert layer.running_mean.item() == 0.0


def test_a_graph_that_waits_for_its_backward_is_not_disturbed():
    model, data = mlp().eval(), shuffled()
    loss = model(data[0]).square().mean()
    with swapped_statistics(model, population_statistics(model, data)):
        model(data[1])
    loss.backward()
    assert model[0].weight.grad is not None


def test_no_statistics_change_nothing():
    model = nn.Linear(2, 2)
    with swapped_statistics(model, {}):
        pass


@pytest.mark.parametrize("name", ["0", "1.x", "free", ""])
def test_a_name_that_is_no_layer_with_statistics_is_refused_before_anything_changes(name):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.add_module("free", nn.BatchNorm1d(2, track_running_stats=False))
    before = snapshot(model)
    given = {"1": statistics([1.0, 2.0], [1.0, 1.0]), name: statistics([1.0, 2.0], [1.0, 1.0])}
    with (
        pytest.raises(ValueError, match=f"expected names of layers with running statistics, got {name!r}"),
        swapped_statistics(model, given),
    ):
        pass
    assert snapshot(model) == before


def test_another_number_of_channels_is_refused():
    with (
        pytest.raises(ValueError, match=r"statistics of 0 expected shape \(2,\), got \(1,\)"),
        swapped_statistics(nn.Sequential(nn.BatchNorm1d(2)), {"0": statistics([1.0], [1.0])}),
    ):
        pass
