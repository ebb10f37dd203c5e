import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, fresh, rows, trained

WIDTH = 4


def loader(count, size, drop_last=False):
    data = TensorDataset(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0)))
    return DataLoader(data, size, drop_last=drop_last)


def test_fires_on_33_rows_in_batches_of_8(whole):
    report = diagnose(dense_net(), loader(33, 8))
    assert report.codes == ("BN024", "BN025")  # 8 rows are few, besides
    whole(report)


def test_fires_on_5_rows_for_4_replicas(whole):
    report = diagnose(dense_net(), loader(40, 5), replicas=4)
    assert report.codes == ("BN024", "BN025", "BN041")  # 5 rows are few, besides
    whole(report)


def test_fires_on_a_forward_with_one_value(whole):
    report = diagnose(dense_net(), [row[:1] for row in rows()])
    assert report.codes == ("BN024",)
    whole(report)


def test_fires_on_a_map_of_one_by_one(whole):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    whole(diagnose(model, [x[:1] for x, _ in batches()]))


def test_fires_on_group_norm_with_one_value_per_group(whole):
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.GroupNorm(4, 4), nn.Linear(4, 1))
    report = diagnose(model, rows())
    assert report.codes == ("BN024",)
    whole(report)


def sampled(of, count, size=32):
    """A loader of some of the rows there are."""
    return DataLoader(loader(of, size).dataset, size, sampler=SubsetRandomSampler(range(count)))


def test_counts_what_the_sampler_draws():
    assert diagnose(dense_net(), sampled(1025, 800), rules=["BN024"]).findings == ()
    (finding,) = diagnose(dense_net(), sampled(1000, 801), rules=["BN024"]).findings
    assert finding.evidence == {"samples": 801.0, "batch_size": 32.0, "parts": 1.0}
    assert finding.fix.text.startswith("drop_last=True in the training loader")


def test_is_silent_on_a_batch_sampler_whose_batches_nobody_knows():
    data = loader(33, 8).dataset
    merged = DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(32)), 8, False))
    assert "BN024" not in diagnose(dense_net(), merged).codes


@pytest.mark.parametrize(("size", "replicas"), [(1, 1), (5, 4)])
def test_drop_last_is_not_advised_where_every_batch_is_too_small(size, replicas):
    report = diagnose(dense_net(), loader(40, size), replicas=replicas, rules=["BN024"])
    assert report.findings
    assert all("drop_last=True helps nothing" in finding.fix.text for finding in report.findings)


def test_group_norm_beside_batch_norm_hides_nothing_in_batches_of_one():
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    report = diagnose(model, [row[:1] for row in rows()], rules=["BN024"])
    assert [(finding.code, finding.layer) for finding in report.findings] == [("BN024", "2")]
    assert "BN024" not in report.skipped


@pytest.mark.parametrize(("count", "drop_last"), [(33, True), (32, False), (34, False)])
def test_is_silent_without_a_tail_of_one(count, drop_last):
    assert "BN024" not in diagnose(dense_net(), loader(count, 8, drop_last)).codes


def test_is_silent_on_one_image_of_a_map():
    model = fresh()
    assert "BN024" not in diagnose(model, [x[:1] for x, _ in batches()]).codes
    images = TensorDataset(torch.randn(33, 1, 8, 8))
    report = diagnose(trained(), DataLoader(images, 8), forward_fn=lambda model, batch: model(batch[0]))
    assert "BN024" not in report.codes


def test_is_silent_on_a_loader_of_unknown_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.randn(321, WIDTH, generator=torch.Generator().manual_seed(0)))

    assert "BN024" not in diagnose(dense_net(), DataLoader(Stream(), 16)).codes  # 20 batches are looked at


def test_is_silent_without_batch_norm():
    assert diagnose(nn.Linear(WIDTH, 1), loader(33, 8)).findings == ()


def ghosted():
    """A layer of another library that cuts batches by torch.chunk."""

    class Ghost(nn.Module):
        def __init__(self):
            super().__init__()
            self.virtual_batch_size, self.norm = 10, nn.BatchNorm1d(WIDTH)

        def forward(self, x):
            return torch.cat([self.norm(part) for part in x.chunk(-(-len(x) // 10))])

    return nn.Sequential(Ghost(), nn.Linear(WIDTH, 2))


def test_fires_on_101_rows_in_ghost_batches_of_10(whole):
    report = diagnose(ghosted(), loader(101, 101))
    assert report.codes == ("BN024",)
    whole(report)


def test_is_silent_on_100_rows_in_ghost_batches_of_10():
    assert diagnose(ghosted(), loader(100, 100), rules=["BN024"]).findings == ()
