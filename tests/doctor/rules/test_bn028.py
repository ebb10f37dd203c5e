import collections

import torch
from torch import nn

from batchnorm.doctor import diagnose

LENGTHS = torch.tensor([4, 1, 2])


def padded():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, generator=generator) + 3
    mask = torch.arange(4) < LENGTHS.unsqueeze(1)
    return [(x * mask.unsqueeze(1), LENGTHS)] * 8


class Valid(nn.Module):
    """Normalizes valid positions only."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        valid = x.abs().sum(1) > 0  # (N, L)
        rows = self.norm(x.transpose(1, 2)[valid])
        out = torch.zeros_like(x.transpose(1, 2))
        out[valid] = rows
        return out.transpose(1, 2)


def test_fires_on_padding_in_the_statistics(whole):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh())
    report = diagnose(model, padded(), lengths_fn=lambda batch: batch[1], rules=["BN028"])
    assert report.codes == ("BN028",)
    whole(report)


def test_fires_on_two_sequences_of_which_one_is_padded():
    x, lengths = torch.tensor([[[2.0, 4.0, 2.0, 4.0]], [[3.0, 0.0, 0.0, 0.0]]]), torch.tensor([4, 1])
    assert (x.mean().item(), torch.cat([x[0, 0], x[1, 0, :1]]).mean().item()) == (1.875, 3.0)
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Tanh())
    report = diagnose(model, [(x, lengths)] * 8, lengths_fn=lambda batch: batch[1])
    assert report.codes == ("BN025", "BN028")  # eight values are few, besides


def test_is_silent_on_packed_sequences():
    data = [torch.randn(7, 2, generator=torch.Generator().manual_seed(0))] * 8
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh())
    assert diagnose(model, data, lengths_fn=lambda batch: LENGTHS, rules=["BN028"]).findings == ()


def test_fires_and_names_a_convolution_that_reaches_in(whole):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Conv1d(2, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Tanh())
    model[0].running_mean += 3
    whole(diagnose(model, padded(), lengths_fn=lambda batch: batch[1], rules=["BN028"]))


def test_is_silent_on_a_masked_layer():
    assert diagnose(Valid(), padded(), lengths_fn=lambda batch: batch[1], rules=["BN028"]).findings == ()


def test_is_silent_on_equal_lengths():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh())
    data = [(x, torch.full((3,), 4)) for x, _ in padded()]
    assert diagnose(model, data, lengths_fn=lambda batch: batch[1], rules=["BN028"]).findings == ()


def test_fires_on_named_tuples():
    Padded = collections.namedtuple("Padded", "x lengths")
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh())
    data = [Padded(*batch) for batch in padded()]
    report = diagnose(model, data, lengths_fn=lambda batch: batch.lengths, rules=["BN028"])
    assert report.codes == ("BN028",)
