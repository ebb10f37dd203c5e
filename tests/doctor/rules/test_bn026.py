import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, by_class, dense_net, fresh, rows, train, trained


def test_fires_on_one_class_a_batch(whole):
    report = diagnose(train(fresh(), by_class(), 3), by_class())
    assert report.codes == ("BN026",)
    assert report.findings[0].severity == "error"
    whole(report)


@pytest.mark.parametrize(("spread", "severity"), [(0.2, None), (0.4, "warn"), (1.0, "error")])
def test_fires_by_how_much_batches_differ(spread, severity):
    generator = torch.Generator().manual_seed(0)
    data = [row + spread * torch.randn(1, 4, generator=generator) for row in rows(32)]
    assert diagnose(dense_net(), data, rules=["BN026"]).severity == severity


@pytest.mark.parametrize("size", [2, 8, 64])
def test_is_silent_on_shuffled_data(size):
    data = batches(size, 1280 // size)
    report = diagnose(train(fresh(), data, 2), data)
    assert "BN026" not in report.codes


def test_is_silent_with_too_few_batches_to_tell():
    report = diagnose(trained(), by_class()[:4])
    assert report.findings == ()
    assert report.skipped["BN026"] == "needs 8 batches or more, got 4"


def test_is_silent_on_what_chance_makes_of_twenty_batches_of_two():
    model = nn.BatchNorm1d(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        data = list(torch.randn(20, 2, 1, generator=generator))
        assert diagnose(model, data, rules=["BN026"]).findings == ()


class Frames(nn.Module):
    """Clips ``(N, T, C)`` whose frames go through batch norm as rows; one score a clip."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        rows = self.norm(x.flatten(0, 1)).relu()
        return self.out(rows.view(len(x), -1, 4).mean(1))


def clips(count=320, frames=16, ordered=False):
    """Frames of a clip are alike; in order, so are clips that follow each other."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(count, 1, 1, generator=generator).expand(-1, 1, 4)
    if ordered:
        scenes = scenes[scenes[:, 0, 0].argsort()]
    return scenes + 0.2 * torch.randn(count, frames, 4, generator=generator)


def test_is_silent_on_shuffled_clips_whose_frames_are_alike():
    report = diagnose(Frames(), list(clips().split(16)), rules=["BN026"])
    assert report.findings == ()


def test_fires_on_clips_in_order():
    report = diagnose(Frames(), list(clips(ordered=True).split(16)), rules=["BN026"])
    assert [finding.severity for finding in report.findings] == ["error"]


class Graphs(nn.Module):
    """Nodes of several graphs as rows; one score a graph."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x, sizes):
        return self.out(torch.stack([part.mean(0) for part in self.norm(x).relu().split(sizes)]))


@pytest.mark.parametrize("ragged", [False, True])
def test_is_silent_on_graphs_whose_nodes_are_alike(ragged):
    generator = torch.Generator().manual_seed(0)
    data = []
    for number in range(20):
        sizes = [25 + (graph * number % 7 if ragged else 0) for graph in range(16)]
        scenes = torch.randn(16, 4, generator=generator).repeat_interleave(torch.tensor(sizes), 0)
        data.append({"x": scenes + 0.2 * torch.randn(len(scenes), 4, generator=generator), "sizes": sizes})
    assert diagnose(Graphs(), data, rules=["BN026"]).findings == ()


def test_is_silent_on_nodes_that_have_a_score_each_where_the_loader_counts_graphs():
    def collate(graphs):
        return torch.cat(graphs)

    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert diagnose(model, list(clips().flatten(0, 1).split(256)), rules=["BN026"]).codes == ("BN026",)
    loader = DataLoader(clips(), 16, shuffle=True, collate_fn=collate)
    assert diagnose(model, loader, rules=["BN026"]).findings == ()
