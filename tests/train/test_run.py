"""Whole runs on the embedded sample: what they record, and that stopping them changes nothing."""

import contextlib
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
from batchnorm.records import FaultRecord, Finding, Fix, append_fault, read_faults, read_run
from batchnorm.train import TrainConfig, train
from batchnorm.train.checkpoint import load_checkpoint
from batchnorm.train.directory import RunDirectory
from batchnorm.train.distributed import World
from batchnorm.train.epoch import train_epoch
from batchnorm.train.optimizer import make_optimizer
from tests.processes import in_processes

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
        "run.lock",
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


def test_a_resumed_run_goes_on_with_the_scale_of_its_losses(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",), precision="float16")
    train(config, sample, tmp_path / "a", Silent())
    with pytest.raises(KeyboardInterrupt):
        train(config, sample, tmp_path / "b", StopAfter(1))
    train(config, sample, tmp_path / "b", Silent(), resume=True)
    undisturbed, _ = load_checkpoint(tmp_path / "a" / "checkpoint.safetensors")
    resumed, _ = load_checkpoint(tmp_path / "b" / "checkpoint.safetensors")
    assert resumed == undisturbed
    assert resumed.scale is not None


ARGUMENTS = ["--epochs", "3", "--train-images", "1024", "--threads", "1", "--recalibration-images", "512"]


def start(path, *more):
    command = [sys.executable, "-m", "batchnorm", "train", *ARGUMENTS, "--out", str(path), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    assert start(tmp_path / "a").wait() == 0
    for number in range(4):
        process = start(tmp_path / "b", *(["--resume"] if number else []))
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


def test_resuming_a_run_with_a_setting_that_this_version_lacks_is_refused(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none",), epochs=1)
    train(config, sample, tmp_path, Silent())
    theirs = {**config.to_dict(), "label_smoothing": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    with pytest.raises(ValueError, match=r"label_smoothing expected 0.1 to resume .*, got None"):
        train(config, sample, tmp_path, Silent(), resume=True)


@pytest.mark.parametrize("other", [{"arms": ("batch",)}, {"seeds": (4,)}, {"epochs": 2}])
def test_resuming_with_another_runs_checkpoint_is_refused(tmp_path, sample, other):
    config = dataclasses.replace(SMALL, arms=("none",), epochs=1)
    train(config, sample, tmp_path / "a", Silent())
    train(dataclasses.replace(config, **other), sample, tmp_path / "b", Silent())
    os.replace(tmp_path / "b" / "checkpoint.safetensors", tmp_path / "a" / "checkpoint.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint.safetensors expected a checkpoint of this run, got "):
        train(config, sample, tmp_path / "a", Silent(), resume=True)


def test_resuming_with_other_images_or_processes_is_refused(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none",), epochs=1)
    train(config, sample, tmp_path, Silent())
    environment = json.loads((tmp_path / "environment.json").read_text())
    for name, value in (("processes", 2), ("data", "fashion-mnist")):
        (tmp_path / "environment.json").write_text(json.dumps({**environment, name: value}))
        with pytest.raises(ValueError, match=f"train: {name} expected {value} to resume .*, got "):
            train(config, sample, tmp_path, Silent(), resume=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", "report.html", "weights/mine.pt"])
def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path, sample, name, resume):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match=f"out expected a new directory, got .* with {name.split('/')[0]}$"):
        train(SMALL, sample, tmp_path, Silent(), resume=resume)
    assert path.read_text() == "mine"
    assert [other for other in tmp_path.rglob("*") if other.is_file()] == [path]


def test_a_config_of_something_else_is_refused_and_left_alone(tmp_path, sample):
    (tmp_path / "config.json").write_text('{"model": "bert"}')
    for resume, message in (
        (False, "out expected a new directory"),
        (True, "model expected 'bert' to resume"),
    ):
        with pytest.raises(ValueError, match=message):
            train(SMALL, sample, tmp_path, Silent(), resume=resume)
    assert os.listdir(tmp_path) == ["config.json"]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            "metrics.jsonl",
            "expected the rows up to checkpoint.safetensors, got none of arm none, seed 0, epoch 1",
        ),
        (
            "layers.jsonl",
            "expected the rows up to checkpoint.safetensors, got none of arm none, seed 0, epoch 0",
        ),
        ("checkpoint.safetensors", "expected the state after 2 epochs of metrics.jsonl, got none"),
        ("environment.json", "expected a JSON object, got .* No such file or directory"),
    ],
)
def test_resuming_a_run_that_lost_a_file_is_refused_and_the_others_stay(tmp_path, sample, lost, message):
    config = dataclasses.replace(SMALL, arms=("none",))
    train(config, sample, tmp_path, Silent())
    (tmp_path / lost).unlink()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{lost} {message}"):
        train(config, sample, tmp_path, Silent(), resume=True)
    assert contents(tmp_path) == before


def test_resuming_a_run_that_lost_its_last_row_is_refused(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none",))
    train(config, sample, tmp_path, Silent())
    first, _ = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(first)
    with pytest.raises(ValueError, match="got none of arm none, seed 0, epoch 2"):
        train(config, sample, tmp_path, Silent(), resume=True)


@pytest.mark.parametrize(
    "name", ["checkpoint.safetensors", "metrics.jsonl", "report.html", "weights", "charts"]
)
def test_what_stands_in_the_place_of_a_file_or_directory_is_named(tmp_path, sample, name):
    config = dataclasses.replace(SMALL, arms=("none",), epochs=1)
    with pytest.raises(RuntimeError, match="no memory"):
        train(config, sample, tmp_path, Fails())
    directory = "." not in name
    for path in tmp_path.glob(name):
        path.unlink()
    (tmp_path / name).write_text("") if directory else (tmp_path / name).mkdir()
    words = "directory, got a file" if directory else "file, got a directory"
    with pytest.raises(ValueError, match=f"train: .*/{name} expected a {words}"):
        train(config, sample, tmp_path, Silent(), resume=True)


def test_what_killed_writers_left_goes_when_the_run_is_taken_up(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none",))
    with pytest.raises(KeyboardInterrupt):
        train(config, sample, tmp_path, StopAfter(1))
    (tmp_path / "weights").mkdir()
    for name in ("checkpoint.safetensors", "summary.json", "weights/none-0.safetensors"):
        path = tmp_path / name
        (path.parent / f".{path.name}.ab_cdef8").write_bytes(b"half")
    for mine in (".config.json.swp", ".notes.ab_cdef8"):
        (tmp_path / mine).write_text("mine")
    train(config, sample, tmp_path, Silent(), resume=True)
    hidden = {path.name for path in tmp_path.rglob(".*")}
    assert hidden == {".config.json.swp", ".notes.ab_cdef8"}


class Fails(Silent):
    def trial(self, *_):
        raise RuntimeError("no memory")


def test_a_run_that_failed_before_an_epoch_ended_is_begun_anew(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none",), epochs=1)
    with pytest.raises(RuntimeError, match="no memory"):
        train(config, sample, tmp_path / "run", Fails())
    other = dataclasses.replace(config, lr=0.5)
    run = train(other, sample, tmp_path / "run", Silent())
    assert run.config["lr"] == 0.5
    assert rows(run) == rows(train(other, sample, tmp_path / "fresh", Silent()))


def test_a_second_process_is_refused(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none",), epochs=1)

    class Second(Silent):
        def trial(self, *_):
            words = rf"a directory that no other process writes, got .* \(process {os.getpid()}\)$"
            with pytest.raises(ValueError, match=words):
                train(config, sample, tmp_path, Silent(), resume=True)

    run = train(config, sample, tmp_path, Second())
    assert [row.epoch for row in run.epochs] == [1]


def test_a_sibling_reads_what_the_leader_wrote_and_writes_nothing(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("none", "batch"))
    with pytest.raises(KeyboardInterrupt):
        train(config, sample, tmp_path, StopAfter(1))
    with open(tmp_path / "layers.jsonl", "a") as file:
        file.write('{"arm": "no')

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    before = state()
    sibling = RunDirectory(tmp_path, config)
    sibling.look()
    assert (sibling.epochs_done("none", 0), sibling.epochs_done("batch", 0)) == (1, 0)
    assert state() == before


def test_an_unfinished_fault_is_dropped_before_the_next_is_written(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",))
    fix = Fix("advice", "wait")
    one, two = (
        FaultRecord("batch", 0, 1, Finding(code, "slow", "warn", "norm1", "Slow.", {}, fix))
        for code in ("BN012", "BN013")
    )
    with pytest.raises(KeyboardInterrupt):
        train(config, sample, tmp_path, StopAfter(1))
    append_fault(tmp_path, one)
    with open(tmp_path / "faults.jsonl", "a") as file:
        file.write('{"arm": "ba')

    @contextlib.contextmanager
    def watcher(model, optimizer, on_finding):
        on_finding(two.finding)
        yield

    train(config, sample, tmp_path, Silent(), resume=True, watcher=watcher)
    assert [fault.finding for fault in read_faults(tmp_path)] == [one.finding, two.finding]


def test_an_unfinished_first_fault_is_dropped_before_the_next_is_written(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",))
    fix = Fix("advice", "wait")
    fault = FaultRecord("batch", 0, 2, Finding("BN012", "slow", "warn", "norm1", "Slow.", {}, fix))
    with pytest.raises(KeyboardInterrupt):
        train(config, sample, tmp_path, StopAfter(1))
    (tmp_path / "faults.jsonl").write_text('{"arm": "ba')

    @contextlib.contextmanager
    def watcher(model, optimizer, on_finding):
        on_finding(fault.finding)
        yield

    train(config, sample, tmp_path, Silent(), resume=True, watcher=watcher)
    assert read_faults(tmp_path) == (fault,)


@pytest.mark.parametrize("lr", [1e4, 1e8])  # variances beyond float32, and NaN
def test_a_network_that_overflows_is_recorded_and_the_next_one_trained(tmp_path, sample, lr):
    few = dataclasses.replace(SMALL, train_images=256, batch_size=64, recalibration_images=64, epochs=1)
    config = dataclasses.replace(few, model="resnet20", arms=("batch", "none"), lr=lr)
    train(config, sample, tmp_path, Silent())
    run = read_run(tmp_path)
    batch, none = run.epochs
    assert math.isnan(batch.test_accuracy_recalibrated)
    assert none.test_accuracy_recalibrated == none.test_accuracy_running
    last = [row for row in run.layers if (row.arm, row.epoch) == ("batch", 1)]
    assert last
    assert all(row.population_mean is row.population_var is None for row in last)


def test_more_images_than_there_are_is_refused_before_anything_is_written(tmp_path, sample):
    with pytest.raises(ValueError, match="batch_size expected at most the 512 training images, got 1024"):
        train(dataclasses.replace(SMALL, batch_size=1024), sample, tmp_path / "run", Silent())
    with pytest.raises(ValueError, match="train_images expected at most 6000, got 7000"):
        train(dataclasses.replace(SMALL, train_images=7000), sample, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_tail_of_one_image_is_left_out(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",), train_images=257, epochs=1, drop_last=False)
    assert train(config, sample, tmp_path / "run", Silent()).epochs[0].loss < 3


def test_micro_batches_of_a_short_last_batch_are_balanced(tmp_path, sample):
    short = dataclasses.replace(SMALL, arms=("batch",), train_images=138, epochs=1)  # a tail of ten images
    config = dataclasses.replace(short, drop_last=False, accumulate=4, recalibration_images=None)
    assert train(config, sample, tmp_path / "run", Silent()).epochs[0].loss < 3


def test_every_process_takes_as_many_micro_batches(sample):
    class Alone(World):
        def sum(self, values):
            return values

    seen = {0: [], 1: []}
    config = dataclasses.replace(SMALL, accumulate=4)
    images, labels = sample.train_images[:17].float(), sample.train_labels[:17]
    for rank, sizes in seen.items():
        model = build("lenet", norm="none", seed=0)
        model.register_forward_pre_hook(lambda _, args, sizes=sizes: sizes.append(len(args[0])))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        world = Alone(rank, 2, torch.device("cpu"))
        optimizer = make_optimizer(model, config)
        train_epoch(model, optimizer, scaler, [(images, labels)], config, world, 0, 1, lambda *_: None)
    assert seen == {0: [3, 2, 2, 2], 1: [2, 2, 2, 2]}


def test_frozen_statistics_are_recorded_without_population_statistics(tmp_path, sample):
    config = dataclasses.replace(SMALL, arms=("batch",), stats="frozen", epochs=1)
    run = train(config, sample, tmp_path / "run", Silent())
    assert {row.population_mean for row in run.layers} == {None}
    assert all(row.running_mean is not None for row in run.layers)


def test_recalibration_takes_all_the_images_it_is_given(tmp_path, sample):
    few = dataclasses.replace(SMALL, arms=("batch",), epochs=1, train_images=2000, batch_size=1000)
    first, all_but_one = (
        train(dataclasses.replace(few, recalibration_images=n), sample, tmp_path / str(n), Silent())
        for n in (1000, 1999)
    )
    assert first.layers[0].population_mean != all_but_one.layers[0].population_mean


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


def not_alike(rank, directory, differences):
    """What a run says in which rank 1 is asked something else, or has other images or another directory."""
    sample, errors = load_embedded_sample(), []
    with pytest.MonkeyPatch.context() as patch:
        world = World(rank, 2, torch.device("cpu"))
        patch.setattr("batchnorm.train.run.join_world", lambda _: contextlib.nullcontext(world))
        for number, (name, value) in enumerate(differences.items()):
            config, images, out = dataclasses.replace(SMALL, epochs=1), sample, directory / str(number)
            if rank and name == "out":
                out = directory / value
            elif rank and name == "data":
                images = dataclasses.replace(sample, source=value)
            elif rank:
                config = dataclasses.replace(config, **{name: value})
            try:
                train(config, images, out, Silent())
            except ValueError as error:
                errors.append(str(error))
    return errors


def test_processes_that_are_not_asked_the_same_all_say_so(tmp_path):
    differences = {"lr": 0.5, "seeds": (1,), "data": "elsewhere", "out": "nowhere"}
    told = [
        "lr expected the same in all processes, got 1.0 on rank 0 and 0.5 on rank 1",
        "seeds expected the same in all processes, got [0] on rank 0 and [1] on rank 1",
        "data expected the same in all processes, got embedded-sample on rank 0 and elsewhere on rank 1",
        "out expected the same in all processes, got a run at its start on rank 0 and no run on rank 1",
    ]
    expected = [f"train: {words}" for words in told]
    assert in_processes(2, not_alike, tmp_path, differences) == [expected, expected]
    assert [path.name for path in tmp_path.iterdir()] == ["3"]  # the others left nothing behind


def test_trained_weights_load_into_the_network(tmp_path, sample):
    import safetensors.torch

    train(dataclasses.replace(SMALL, arms=("batch",)), sample, tmp_path, Silent())
    weights = safetensors.torch.load_file(tmp_path / "weights" / "batch-0.safetensors")
    build("lenet", norm="batch", seed=0).load_state_dict(weights)
    assert weights["norm1.num_batches_tracked"] == torch.tensor(8)
