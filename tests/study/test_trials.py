"""Small trials of each kind: repeatable, and with the results that their studies read."""

import math

import pytest
import torch

from batchnorm.study.depth import train_deep
from batchnorm.study.drift import watch_layers
from batchnorm.study.images import batch_stream, fixed_batches, images_of, scaled
from batchnorm.study.prediction import train_book
from batchnorm.study.processes import time_steps
from batchnorm.study.recurrent import train_rows
from batchnorm.study.training import train_lenet

SMALL = {"data": "embedded-sample", "images": 300, "test_images": 100}


def test_lenet_learns_repeatably_and_stops_when_it_may():
    settings = {**SMALL, "seed": 0, "batch_size": 50, "steps": 30, "every": 5, "lr": 0.1}
    result = train_lenet(**settings)
    assert result["accuracy"] > 0.4
    assert result["curve"]["steps"] == [5, 10, 15, 20, 25, 30]
    assert result["curve"]["seconds"] == sorted(result["curve"]["seconds"])
    again = train_lenet(**settings)
    assert {**again, "curve": 0} == {**result, "curve": 0}
    early = train_lenet(**settings, until=0.3)
    assert early["accuracy"] >= 0.3
    assert early["curve"]["steps"][-1] < 30
    assert early["curve"]["accuracy"][:-1] == [share for share in early["curve"]["accuracy"] if share < 0.3]


def test_a_lost_loss_is_a_result():
    result = train_lenet(**SMALL, seed=0, norm="none", inputs="raw", lr=1e6, steps=8, batch_size=50)
    assert result["loss"] == math.inf
    assert result["accuracy"] == 0.1


def test_frozen_layers_keep_the_statistics_of_the_beginning():
    kept = train_lenet(**SMALL, seed=0, norm="frozen", lr=1e-6, steps=4, batch_size=50)
    assert kept["accuracy"] == kept["accuracy_running"]


def test_every_kind_of_statistics_is_tested_each_epoch():
    result = train_book(**SMALL, seed=0, lr=1.0, momenta=(0.1, 1.0), batch_size=50, epochs=2)
    assert [len(result[name]) for name in ("running", "recalibrated", "batch", "batch_of_4")] == [2] * 4
    # the averages beside the layers' own are theirs, if the momentum is
    assert result["averages"][0] == result["running"]
    assert result["single"] < 1e-4


def test_every_kind_of_statistics_is_tested_on_the_same_images(monkeypatch):
    # the largest batches in which images are tested: 500, of which the sample has two, the whole set twenty
    monkeypatch.setattr("batchnorm.study.images.EVALUATION_BATCH", 20)
    tested = {}

    def count(model, test, size):
        tested[size] = sum(len(labels) for _, labels in test)
        return 0.0

    monkeypatch.setattr("batchnorm.study.prediction._with_batch_statistics", count)
    train_book(**SMALL, seed=0, lr=0.1, momenta=(), batch_size=50, epochs=1)
    assert tested == {500: 100, 4: 100}


def test_layers_are_watched_without_a_trace():
    settings = {**SMALL, "seed": 0, "norm": "batch", "activation": "relu", "lr": 0.1, "batch_size": 50}
    often, rarely = (watch_layers(**settings, steps=12, looks=looks) for looks in (6, 2))
    assert often["accuracy"] == rarely["accuracy"]
    assert often["steps"] == [0, 2, 4, 6, 8, 10, 12]
    assert list(often["layers"]) == ["conv2", "dense1", "dense2", "output"]
    for layer in often["layers"].values():
        assert len(layer["drift"]) == 6
        assert all(quantiles == sorted(quantiles) for quantiles in layer["quantiles"])
    assert often["layers"]["dense1"]["quantiles"][-1] == rarely["layers"]["dense1"]["quantiles"][-1]


def test_activations_of_a_residual_net_grow_without_normalization_only():
    settings = {**SMALL, "seed": 0, "depth": 56, "shortcuts": True, "lr": 0.001, "pool": 4, "steps": 6}
    none, batch = (train_deep(**settings, norm=norm, batch_size=32) for norm in ("none", "batch"))
    growth = [result["spread"][0][-1] / result["spread"][0][0] for result in (none, batch)]
    assert growth[0] > 50
    assert growth[1] < 10
    assert len(none["spread"][0]) == 55


def test_the_lstm_learns():
    result = train_rows(
        **SMALL, seed=0, norm="layer", varied=False, masked=False, hidden=16, lr=0.02, batch_size=50, steps=40
    )
    assert result["train_accuracy"] > 0.35


@pytest.mark.filterwarnings("ignore")  # of torch's own in the processes
def test_processes_are_timed_and_their_messages_counted():
    result = time_steps(seed=0, processes=2, batch_size=4, steps=2)
    assert [result[arm]["calls"] for arm in ("none", "local", "synced")] == [0, 0, 8]
    assert result["synced"]["bytes"] > 0
    assert result["gradients"] == 4 * 44426
    assert all(result[arm]["seconds"] > 0 for arm in ("none", "local", "synced"))


def test_batches_never_end_and_pixels_are_scaled():
    stream = batch_stream("embedded-sample", 100, 40, seed=1, inputs="raw")
    sizes = [len(next(stream)[1]) for _ in range(5)]  # two an epoch; the rest is dropped
    assert sizes == [40] * 5
    assert next(stream)[0].max() == 255
    images = images_of("embedded-sample").train_images.float() / 255
    standard = scaled("standard", "embedded-sample")(images)
    torch.testing.assert_close(
        torch.stack([standard.mean(), standard.std()]), torch.tensor([0.0, 1.0]), atol=1e-4, rtol=0
    )
    assert sum(len(labels) for _, labels in fixed_batches("embedded-sample", 1000)) == 1000
    with pytest.raises(ValueError, match="study: inputs expected unit, raw or standard, got 'log'"):
        scaled("log", "embedded-sample")
