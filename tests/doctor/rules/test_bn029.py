import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.doctor import diagnose


def sequences(count=64, length=20, width=20):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, length, width, generator=generator) for _ in range(8)]


class Recurrent(nn.Module):
    """(N, L, C) of an LSTM, given to batch norm as it is or turned."""

    def __init__(self, turned, hidden=20):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.norm = nn.LSTM(20, hidden, batch_first=True), nn.BatchNorm1d(20)
        self.turned = turned

    def forward(self, x):
        y, _ = self.lstm(x)
        return (self.norm(y.transpose(1, 2)).transpose(1, 2) if self.turned else self.norm(y)).tanh()


def test_fires_on_an_lstm(whole):
    report = diagnose(Recurrent(False), sequences())
    assert (report.codes, report.severity) == (("BN029",), "error")
    whole(report)


def test_fires_as_a_warning_where_sizes_differ(whole):
    report = diagnose(Recurrent(False, hidden=12), sequences())
    assert (report.codes, report.severity) == (("BN029",), "warn")
    whole(report)


def test_fires_behind_a_linear_layer_of_the_same_size(whole):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.BatchNorm1d(20), nn.Tanh())
    whole(diagnose(model, sequences(), rules=["BN029"]))


def test_fires_behind_a_fresh_embedding_whose_signal_is_weak():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 20), nn.BatchNorm1d(20), nn.Tanh())
    words = [torch.randint(0, 50, (64, 20)) for _ in range(8)]
    report = diagnose(model, words, rules=["BN029"])
    assert report.codes == ("BN029",)
    assert report.findings[0].evidence["last_axis"] < 0.05


def test_is_silent_on_a_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(20, 20, 1, bias=False), nn.BatchNorm1d(20), nn.Tanh())
    assert diagnose(model, sequences()).findings == ()


def test_is_silent_where_it_is_turned():
    assert "BN029" not in diagnose(Recurrent(True), sequences()).codes


def profiles(channels, length=44):
    """Series that share their course in time, as those of a day do, with standardized channels."""
    generator = torch.Generator().manual_seed(0)
    course = torch.sin(torch.linspace(0, 6.3, length))
    return [
        course * (1 + 0.3 * torch.randn(32, channels, 1, generator=generator))
        + 0.4 * torch.randn(32, channels, length, generator=generator)
        for _ in range(8)
    ]


@pytest.mark.parametrize("channels", [1, 5])
def test_is_silent_on_series_whose_length_the_layer_cannot_take(channels):
    model = nn.Sequential(nn.BatchNorm1d(channels), nn.Conv1d(channels, 4, 3), nn.ReLU())
    assert diagnose(model, profiles(channels), rules=["BN029"]).findings == ()


@pytest.mark.parametrize("between", [nn.ReLU(), nn.MaxPool1d(1)])
def test_is_silent_behind_a_convolution_over_time(between):
    """Of as many channels as there are steps."""
    conv = nn.Conv1d(1, 40, 5, bias=False)
    nn.init.constant_(conv.weight, 0.2)
    model = nn.Sequential(conv, between, nn.BatchNorm1d(40), nn.Tanh())
    assert diagnose(model, profiles(1), rules=["BN029"]).findings == ()


def test_is_silent_on_a_layer_with_its_channels_last():
    torch.manual_seed(0)
    norm = bn.BatchNorm1d(20, channel_dim=-1)
    model = nn.Sequential(nn.Linear(20, 20, bias=False), norm, nn.Tanh())
    assert diagnose(model, sequences(), rules=["BN029"]).findings == ()


def test_the_fix_fits_the_features():
    same = diagnose(Recurrent(False), sequences()).findings[0]
    assert same.fix.text == "layer(x.transpose(1, 2)).transpose(1, 2)"
    other = diagnose(Recurrent(False, hidden=12), sequences()).findings[0]
    assert other.fix.text == "a layer of 12 features, called as layer(x.transpose(1, 2)).transpose(1, 2)"


def test_fires_on_another_number_of_channels(whole):
    layer = nn.BatchNorm1d(8, affine=False, track_running_stats=False)
    report = diagnose(
        nn.Sequential(layer, nn.Tanh()), [torch.randn(32, 5) for _ in range(8)], rules=["BN029"]
    )
    assert (report.codes, report.severity) == (("BN029",), "error")
    whole(report)


def test_is_silent_on_the_number_declared():
    layer = nn.BatchNorm1d(5, affine=False, track_running_stats=False)
    data = [torch.randn(32, 5) for _ in range(8)]
    assert diagnose(nn.Sequential(layer, nn.Tanh()), data, rules=["BN029"]).findings == ()


def test_fires_by_the_values_alone_where_the_code_cannot_be_traced():
    class Untraced(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x):
            return self.norm(x) if float(x.sum()) > 0 else self.norm(-x)

    level = torch.arange(6.0) * 10
    data = [level + torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert diagnose(Untraced(), data, rules=["BN029"]).codes == ("BN029",)
