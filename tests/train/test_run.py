"""Whole runs on the embedded sample: what they record, and that stopping them changes nothing."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from batchnorm.data import load_embedded_sample
from batchnorm.models import build
from batchnorm.records import Finding, Fix, read_faults, read_run
from batchnorm.train import TrainConfig, train

SMALL = TrainConfig(epochs=2, train_images=512, recalibration_images=512, batch_size=128, threads=1)


class Silent:
    def trial(self, *_): ...
    def images(self, *_): ...
    def epoch(self, *_): ...


@pytest.fixture(scope="module")
def sample():
    return load_embedded_sample()


def rows(run):
    """Everything that must not depend on how often the run was stopped."""
    return [dataclasses.replace(row, images_per_second=0.0) for row in run.epochs], run.layers


def test_a_run_leaves_its_records(tmp_path, sample):
    config = dataclasses.replace(SMALL, seeds=(0, 1))
    run = train(config, sample, tmp_path / "run", Silent())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoint.safetensors",
        "config.json",
        "environment.json",
        "events",
        "layers.jsonl",
        "metrics.jsonl",
        "summary.json",
        "weights",
    }
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary == read_run(tmp_path / "run").summary() == run.summary()
    assert summary["data"] == "embedded-sample"
    assert [len(s["epochs"]) for arm in summary["arms"].values() for s in arm["seeds"].values()] == [2] * 4
    assert {row.layer for row in run.layers} == {"norm1", "norm2", "norm3", "norm4"}
    assert {row.epoch for row in run.layers} == {0, 1, 2}
    assert all((row.running_mean is None) == (row.arm == "none") for row in run.layers)
    assert {path.name for path in (tmp_path / "run" / "weights").iterdir()} == {
        f"{arm}-{seed}.safetensors" for arm in ("none", "batch") for seed in (0, 1)
    }


def test_a_watcher_is_open_in_training_alone_and_its_faults_are_recorded_once(tmp_path, sample):
    log = []

    class Watcher:
        def __init__(self, model, optimizer, on_finding):
            assert {id(p) for group in optimizer.param_groups for p in group["params"]} <= set(
                map(id, model.parameters())
            )
            self.model, self.on_finding = model, on_finding

        def __enter__(self):
            hook = self.model.register_forward_pre_hook(lambda module, args: log.append(module.training))
            self.hook = hook

        def __exit__(self, *_):
            self.hook.remove()
            self.on_finding(Finding("BN012", "slow", "warn", "norm1", "Slow.", {}, Fix("advice", "wait")))

    config = dataclasses.replace(SMALL, arms=("batch",))
    train(config, sample, tmp_path / "run", Silent(), watcher=Watcher)
    assert log == [True] * 8  # two epochs of four batches, and neither evaluation nor recalibration
    (fault,) = read_faults(tmp_path / "run")
    assert (fault.arm, fault.seed, fault.epoch, fault.finding.code) == ("batch", 0, 1, "BN012")


def test_training_teaches(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",), epochs=3, train_images=None)
    run = train(config, sample, tmp_path / "run", Silent())
    first, *_, last = run.epochs
    assert last.loss < first.loss
    assert last.test_accuracy_recalibrated > 0.6


def test_over_a_hundred_layers_batch_normalization_keeps_the_loss_finite(tmp_path, sample):
    images, labels = sample.test_images[:50], sample.test_labels[:50]
    few = dataclasses.replace(sample, test_images=images, test_labels=labels)
    steep = dataclasses.replace(SMALL, model="resnet110", batch_size=32, lr=0.03, momentum=0.9)
    config = dataclasses.replace(steep, epochs=1, train_images=96, recalibration_images=32)
    none, batch = train(config, few, tmp_path / "run", Silent()).epochs
    assert (none.arm, batch.arm) == ("none", "batch")
    assert math.isnan(none.loss)
    assert math.isfinite(batch.loss)


def test_the_arms_torch_and_batch_learn_the_same(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch", "torch", "scratch"), lr=0.1)
    run = train(config, sample, tmp_path / "run", Silent())
    losses = {arm: [row.loss for row in run.curve(arm, 0)] for arm in run.arms}
    assert losses["batch"] == pytest.approx(losses["torch"], rel=1e-4)
    assert losses["batch"] == pytest.approx(losses["scratch"], rel=1e-4)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole(tmp_path, sample):
    whole = train(dataclasses.replace(SMALL, arms=("none",), lr=0.1), sample, tmp_path / "1", Silent())
    parts = dataclasses.replace(SMALL, arms=("none",), lr=0.1, accumulate=4)
    accumulated = train(parts, sample, tmp_path / "4", Silent())
    assert [row.loss for row in accumulated.epochs] == pytest.approx(
        [row.loss for row in whole.epochs], rel=1e-4
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bfloat16"},
        {"optimizer": "adam", "lr": 0.01, "clip": 1.0, "schedule": "cosine"},
        {"model": "resnet20", "lr": 0.01, "epochs": 1, "momentum": 0.9, "weight_decay": 1e-4},
        {"deterministic": True},
    ],
)
def test_other_settings_run(tmp_path, sample, settings):
    config = dataclasses.replace(SMALL, arms=("batch",), **settings)
    run = train(config, sample, tmp_path / "run", Silent())
    assert len(run.epochs) == config.epochs
    assert all(math.isfinite(row.loss) for row in run.epochs)


class StopAfter(Silent):
    def __init__(self, epochs):
        self.left = epochs

    def epoch(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.5, "schedule": "cosine"}, {"optimizer": "adam"}])
def test_a_run_stopped_between_epochs_ends_with_the_same_numbers(tmp_path, sample, settings):
    config = dataclasses.replace(SMALL, **settings)
    undisturbed = train(config, sample, tmp_path / "a", Silent())
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(config, sample, tmp_path / "b", StopAfter(1), resume=True)
    resumed = train(config, sample, tmp_path / "b", Silent(), resume=True)
    assert rows(resumed) == rows(undisturbed)


ARGUMENTS = ["--epochs", "3", "--train-images", "1024", "--threads", "1", "--recalibration-images", "512"]


def start(path, *more):
    command = [sys.executable, "-m", "batchnorm", "train", *ARGUMENTS, "--out", str(path), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    assert start(tmp_path / "a").wait() == 0
    for number in range(4):
        process = start(tmp_path / "b", "--resume")
        # Kill at a moment that moves through the run: so many bytes of records after the last kill.
        deadline, metrics = time.monotonic() + 60, tmp_path / "b" / "layers.jsonl"
        size = metrics.stat().st_size if metrics.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.stat().st_size > size + 3000 * number:
                break
            time.sleep(0.002)
        time.sleep(0.03 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "b", "--resume").wait() == 0
    assert rows(read_run(tmp_path / "b")) == rows(read_run(tmp_path / "a"))


def test_resuming_with_other_settings_is_refused(tmp_path, sample):
    train(dataclasses.replace(SMALL, arms=("none",)), sample, tmp_path, Silent())
    other = dataclasses.replace(SMALL, arms=("none",), lr=0.5)
    with pytest.raises(ValueError, match=r"lr expected 1.0 to resume .*, got 0.5"):
        train(other, sample, tmp_path, Silent(), resume=True)
    with pytest.raises(ValueError, match=r"out expected a new directory \(or --resume\)"):
        train(SMALL, sample, tmp_path, Silent())


def test_more_images_than_there_are_is_refused_before_anything_is_written(tmp_path, sample):
    with pytest.raises(ValueError, match="batch_size expected at most the 512 training images, got 1024"):
        train(dataclasses.replace(SMALL, batch_size=1024), sample, tmp_path / "run", Silent())
    with pytest.raises(ValueError, match="train_images expected at most 6000, got 7000"):
        train(dataclasses.replace(SMALL, train_images=7000), sample, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_tail_of_one_image_is_left_out(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",), train_images=257, epochs=1, drop_last=False)
    assert train(config, sample, tmp_path / "run", Silent()).epochs[0].loss < 3


def test_two_processes_train_what_one_does(tmp_path):
    """Without batch normalization the shares of two processes add up to the one process's batch."""
    settings = [*ARGUMENTS, "--arms", "none", "--lr", "0.1", "--schedule", "step"]
    one = [sys.executable, "-m", "batchnorm", "train", *settings, "--out", str(tmp_path / "one")]
    two = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        *["-m", "batchnorm", "train", *settings, "--out", str(tmp_path / "two")],
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (one, two):
        subprocess.run(command, check=True, capture_output=True, env=environment)
    first, second = read_run(tmp_path / "one"), read_run(tmp_path / "two")
    assert second.environment["processes"] == 2
    assert [row.loss for row in second.epochs] == pytest.approx([row.loss for row in first.epochs], rel=1e-4)


def test_trained_weights_load_into_the_network(tmp_path, sample):
    import safetensors.torch

    train(dataclasses.replace(SMALL, arms=("batch",)), sample, tmp_path, Silent())
    weights = safetensors.torch.load_file(tmp_path / "weights" / "batch-0.safetensors")
    build("lenet", norm="batch", seed=0).load_state_dict(weights)
    assert weights["norm1.num_batches_tracked"] == torch.tensor(8)
