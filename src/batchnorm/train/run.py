"""A run: every arm with every seed, trained, evaluated and recorded epoch by epoch."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from batchnorm.data import Batches, FashionMNIST
from batchnorm.models import build
from batchnorm.nn.statistics import statistics_from_text
from batchnorm.ops.environment import describe_environment
from batchnorm.records import EpochRecord, FaultRecord, Finding, RunRecord, append_fault
from batchnorm.surgery import population_statistics, swapped_statistics
from batchnorm.surgery.watch import NotFiniteError
from batchnorm.train.checkpoint import Progress, restore, save_checkpoint, save_weights
from batchnorm.train.config import TrainConfig
from batchnorm.train.directory import RunDirectory
from batchnorm.train.distributed import World, join_world
from batchnorm.train.epoch import EpochResult, evaluate, train_epoch
from batchnorm.train.events import EventWriter
from batchnorm.train.observe import observe_layers
from batchnorm.train.optimizer import make_optimizer

__all__ = ["Observer", "Watcher", "train"]

# Of a model in training and its optimizer; calls the last argument for each fault.
Watcher = Callable[
    [nn.Module, torch.optim.Optimizer, Callable[[Finding], object]], contextlib.AbstractContextManager[object]
]

EVALUATION_BATCH = 1000
PROBE_IMAGES = 1000


class Observer(Protocol):
    """Told what happens; the command line draws its progress bar from it."""

    def trial(self, arm: str, seed: int, epoch: int, images: int) -> None:
        """An epoch of so many images begins."""

    def images(self, done: int, loss: float, accuracy: float) -> None:
        """So many images of the epoch are trained on, with this mean loss and accuracy."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done and recorded."""


def train(
    config: TrainConfig,
    data: FashionMNIST,
    directory: Path,
    observer: Observer,
    *,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> RunRecord:
    """Train every arm with every seed, and leave a run directory behind.

    Arms with one seed start from the same weights, where they share them, and see the same batches.
    Started by ``torchrun``, every process takes its share of each batch, and rank 0 evaluates and
    writes. All are given the same settings, images and directory.

    Args:
        config: What to do.
        data: The images.
        directory: Where the records go; see `RunDirectory`.
        observer: Told what happens, on rank 0 only.
        resume: Go on with a run that was stopped; it ends with the numbers it would have had. Where there is
            none, one begins.
        watcher: Makes what each model is trained under, as `batchnorm.Watch`; on rank 0 only. It is
            entered for the training of each epoch, and left for what is between.

    Raises:
        ValueError: If settings, data and directory do not fit together, or differ between processes.
    """
    images = len(data.train_labels)
    if config.train_images is not None and config.train_images > images:
        raise ValueError(f"train: train_images expected at most {images}, got {config.train_images}")
    images = config.train_images or images
    if config.batch_size > images:
        raise ValueError(
            f"train: batch_size expected at most the {images} training images, got {config.batch_size}"
        )
    with join_world(config.device) as world, _settings(config), contextlib.ExitStack() as stack:
        world.expect_alike({**config.to_dict(), "data": data.source})
        config.expect_processes(world.size)
        environment = {"data": data.source, **describe_environment(), "processes": world.size}
        run = RunDirectory(directory, config)
        # The leader makes or takes up the directory before its siblings look at it.
        if world.leads:
            stack.enter_context(run.led(environment, resume=resume))
        world.wait()
        if not world.leads:
            run.look()
        world.expect_alike({"out": run.standing()})
        for arm, seed in run.trials:
            if run.epochs_done(arm, seed) < config.epochs:
                _Trial(config, data, run, world, observer, arm, seed, watcher).train()
        world.wait()
        return run.finish() if world.leads else run.read()


@contextlib.contextmanager
def _settings(config: TrainConfig) -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


class _Trial:
    """One arm with one seed."""

    def __init__(
        self,
        config: TrainConfig,
        data: FashionMNIST,
        run: RunDirectory,
        world: World,
        observer: Observer,
        arm: str,
        seed: int,
        watcher: Watcher | None,
    ) -> None:
        self.config, self.run, self.world, self.observer = config, run, world, observer
        self.arm, self.seed = arm, seed
        device = world.device
        limit = config.train_images or len(data.train_labels)
        images, labels = data.train_images[:limit], data.train_labels[:limit]
        # A short last batch may be kept, but not one so short that a part of it has a single image.
        tail = limit % config.batch_size
        self.batches = Batches(
            images,
            labels,
            config.batch_size,
            seed=seed,
            drop_last=config.drop_last or tail < 2 * config.accumulate * world.size,
            device=device,
        )
        self.test = Batches(
            data.test_images, data.test_labels, min(EVALUATION_BATCH, len(data.test_labels)), device=device
        )
        # Population statistics in one pass: at a thousand images a batch it finds what going layer by
        # layer finds (test accuracy equal to .0001 on trained LeNets), in a fraction of the time.
        few = min(limit, config.recalibration_images or limit)
        count = math.ceil(few / EVALUATION_BATCH)
        size = math.ceil(few / count)  # batches of about one size: a small one would say little
        self.recalibration = Batches(images[:few], labels[:few], size, device=device)
        self.probe, _ = next(iter(Batches(images, labels, min(limit, PROBE_IMAGES), device=device)))
        stats = statistics_from_text(config.stats) if arm in ("batch", "scratch") else None
        model = build(config.model, norm=arm, backend=config.backend, seed=seed, stats=stats)
        self.model = model.to(device)
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.watch: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if watcher is not None and world.leads:
            self.watch = watcher(self.model, self.optimizer, self._found)
        self.epoch = 0

    def train(self) -> None:
        """Train what is left of this trial, recording each epoch."""
        done = self.run.epochs_done(self.arm, self.seed)
        if done:
            restore(self.run.tensors, self.model, self.optimizer, self.run.checkpoint)
            assert self.run.progress is not None
            if self.run.progress.scale is not None:
                scale, tracker = self.run.progress.scale
                self.scaler.load_state_dict(
                    {**self.scaler.state_dict(), "scale": scale, "_growth_tracker": tracker}
                )
        elif self.world.leads:
            self._evaluate(0, None)
        wrapped: nn.Module = self.model
        if self.world.size > 1:
            wrapped = nn.parallel.DistributedDataParallel(self.model)
        steps_per_epoch = len(self.batches)
        with EventWriter(self.run.path, self.arm, self.seed, done, active=self.world.leads) as events:
            for epoch in range(done + 1, self.config.epochs + 1):
                # What a model draws while training depends on seed and epoch only, so it can be resumed.
                torch.manual_seed(self.seed * 100_003 + epoch)
                if self.world.leads:
                    self.observer.trial(
                        self.arm, self.seed, epoch, len(self.batches) * self.config.batch_size
                    )
                self.epoch = epoch
                with self.watch:
                    result = train_epoch(
                        wrapped,
                        self.optimizer,
                        self.scaler,
                        self.batches.epoch(epoch),
                        self.config,
                        self.world,
                        first_step=(epoch - 1) * steps_per_epoch,
                        steps=self.config.epochs * steps_per_epoch,
                        on_images=self.observer.images if self.world.leads else lambda *_: None,
                    )
                if self.world.leads:
                    record = self._evaluate(epoch, result)
                    assert record is not None
                    events.write(record)
                    self._save(epoch)
                    self.observer.epoch(record)
                self.world.wait()

    def _evaluate(self, epoch: int, result: EpochResult | None) -> EpochRecord | None:
        """Record the layers and, after an epoch, the test accuracy under both kinds of statistics."""
        try:
            population = population_statistics(self.model, self.recalibration, method="onepass")
            diverged = False
        except NotFiniteError:
            population, diverged = {}, True
        layers = observe_layers(self.model, self.probe, population, self.arm, self.seed, epoch)
        record = None
        if result is not None:
            running = evaluate(self.model, self.test)
            recalibrated = math.nan if diverged else running
            if population:
                with swapped_statistics(self.model, population):
                    recalibrated = evaluate(self.model, self.test)
            record = EpochRecord(
                self.arm,
                self.seed,
                epoch,
                loss=result.loss,
                train_accuracy=result.accuracy,
                test_accuracy_running=running,
                test_accuracy_recalibrated=recalibrated,
                images_per_second=result.images_per_second,
            )
        self.run.record(record, layers)
        return record

    def _found(self, finding: Finding) -> None:
        append_fault(self.run.path, FaultRecord(self.arm, self.seed, self.epoch, finding))

    def _save(self, epoch: int) -> None:
        if epoch == self.config.epochs:
            path = self.run.weights(self.arm, self.seed)
            path.parent.mkdir(exist_ok=True)
            save_weights(path, self.model)
        scale = None
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            scale = (state["scale"], state["_growth_tracker"])
        save_checkpoint(
            self.run.checkpoint, Progress(self.arm, self.seed, epoch, scale), self.model, self.optimizer
        )
