"""``batchnorm train`` runs under the doctor's watch: sound networks, which it has nothing to say about."""

import dataclasses

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from batchnorm.cli import app, train
from batchnorm.data import Batches, load_embedded_sample
from batchnorm.doctor import Watch, diagnose
from batchnorm.models import build
from batchnorm.records import read_faults
from batchnorm.surgery import population_statistics, swapped_statistics
from batchnorm.train.epoch import evaluate

EVERY = 32  # steps from one look to the next; the shipped number would want a longer training


@pytest.fixture(scope="module")
def sample():
    whole = load_embedded_sample()
    return dataclasses.replace(
        whole, test_images=whole.test_images[:250], test_labels=whole.test_labels[:250]
    )


@pytest.fixture
def looks(monkeypatch):
    """The looks that were taken."""
    taken, judge = [], Watch._judge

    def counted(watch):
        taken.append(watch)
        judge(watch)

    monkeypatch.setattr(Watch, "_judge", counted)
    return taken


@pytest.mark.parametrize(("model", "images", "size"), [("lenet", 6000, 64), ("resnet20", 400, 10)])
def test_a_sound_network_is_trained_in_silence(model, images, size, tmp_path, monkeypatch, sample, looks):
    monkeypatch.setattr(train, "WATCH_EVERY", EVERY)
    monkeypatch.setattr("batchnorm.data.load_fashion_mnist", lambda *_, **__: sample)
    options = ["--arms", "batch", "--epochs", "1", "--recalibration-images", "250", "--threads", "1"]
    sizes = ["--train-images", str(images), "--batch-size", str(size)]
    result = CliRunner().invoke(
        app.app, ["train", "--model", model, *sizes, *options, "--out", str(tmp_path / "run")]
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(looks) == images // size // EVERY
    assert [
        fault.finding for fault in read_faults(tmp_path / "run") if fault.finding.severity != "info"
    ] == []


@pytest.mark.parametrize(("momentum", "lost", "told"), [(0.1, False, False), (0.01, True, True)])
def test_a_lag_is_told_if_it_costs_accuracy(momentum, lost, told, sample):
    """At the textbook's learning rate, kept to the end, the statistics are always some steps behind."""
    data = Batches(sample.train_images, sample.train_labels, 128, seed=0, drop_last=True)
    test = Batches(sample.test_images, sample.test_labels, 250)
    model = build("lenet", norm="torch", seed=0)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = momentum
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for epoch in range(3):
        for x, y in data.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    large = Batches(sample.train_images, sample.train_labels, 512, seed=0, drop_last=True)
    batches = list(large.epoch(0))
    running = evaluate(model, test)
    with swapped_statistics(model, population_statistics(model, batches)):
        measured = evaluate(model, test)
    assert (measured - running > 0.1) == lost
    report = diagnose(model, batches)
    assert max(layer.own for layer in report.layers) > 4  # the ratio alone would tell both
    assert any(finding.severity != "info" for finding in report.findings) == told
