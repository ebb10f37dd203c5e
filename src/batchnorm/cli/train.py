"""``batchnorm train``: the textbook's experiment, and variations of it."""

import contextlib
import dataclasses
import datetime
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchnorm.cli.words import words
from batchnorm.records import read_faults, read_object

if TYPE_CHECKING:  # torch takes a second; --help shall not wait for it
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

    from batchnorm.records import Finding
    from batchnorm.train import Observer, TrainConfig

__all__ = ["HELP", "command"]

HELP = """Train a network on Fashion-MNIST with and without batch normalization, side by side.

The defaults are the textbook's experiment: LeNet with sigmoid, SGD, learning rate 1.0, batches of
256, 10 epochs. After each epoch the test accuracy is taken twice: with the running statistics, and
with statistics recalibrated over training images."""

Setting = typer.Option

WATCH_EVERY = 250  # steps from one look of the doctor to the next: about an epoch of the defaults
MOST_SEEDS = 1000


def command(
    model: Annotated[str, Setting(help="lenet, resnet20, resnet56 or resnet110.")] = "lenet",
    arms: Annotated[
        str, Setting(help="Comma-separated: none, batch (ours), torch (torch.nn's), scratch (plain torch).")
    ] = "none,batch",
    seeds: Annotated[str, Setting(help="Comma-separated numbers or ranges, as 0,1 or 0-5.")] = "0",
    epochs: Annotated[int, Setting(help="Passes over the training set.")] = 10,
    batch_size: Annotated[int, Setting(help="Images per step.")] = 256,
    drop_last: Annotated[
        bool,
        Setting(
            "--drop-last/--keep-last",
            help="Leave out an epoch's last batch if it is smaller, or only if it lacks two images per "
            "micro-batch and process.",
        ),
    ] = True,
    lr: Annotated[float, Setting(help="Learning rate.")] = 1.0,
    optimizer: Annotated[str, Setting(help="sgd or adam.")] = "sgd",
    momentum: Annotated[float, Setting(help="Of SGD.")] = 0.0,
    weight_decay: Annotated[float, Setting(help="Of weights; never of batch norm or biases.")] = 0.0,
    schedule: Annotated[str, Setting(help="constant, cosine or step.")] = "constant",
    accumulate: Annotated[int, Setting(help="Micro-batches per step; divides the batch size.")] = 1,
    clip: Annotated[float | None, Setting(help="Largest gradient norm.")] = None,
    precision: Annotated[str, Setting(help="float32, bfloat16 or float16.")] = "float32",
    train_images: Annotated[int | None, Setting(help="Use only the first so many.")] = None,
    recalibration_images: Annotated[
        int | None, Setting(help="Take population statistics from the first so many only.")
    ] = None,
    stats: Annotated[
        str, Setting(help="Of the arms batch and scratch: batch, ghost:32, renorm, synced+renorm, …")
    ] = "batch",
    backend: Annotated[str, Setting(help="Of our layers: auto, eager, native or torch.")] = "auto",
    device: Annotated[str, Setting(help="cpu, cuda, …")] = "cpu",
    threads: Annotated[int | None, Setting(help="CPU threads.")] = None,
    deterministic: Annotated[bool, Setting("--deterministic", help="Demand it of torch.")] = False,
    data_dir: Annotated[Path | None, Setting(help="Directory with the four Fashion-MNIST files.")] = None,
    out: Annotated[
        str | None,
        Setting(metavar="<path>", help="New directory of the run; runs/<time>-<model> if not given."),
    ] = None,
    resume: Annotated[
        bool,
        Setting(
            "--resume",
            help="Go on with the run in --out, or with the newest under runs/ that has the same settings.",
        ),
    ] = False,
    watch: Annotated[
        bool, Setting("--watch", help="Serve the run's page on 127.0.0.1 and keep it up to date.")
    ] = False,
    as_json: Annotated[bool, Setting("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Train, print the table, write the report."""
    given = dict(locals())
    from batchnorm.cli import progress, report, table
    from batchnorm.data import load_fashion_mnist
    from batchnorm.doctor import Watch
    from batchnorm.train import TrainConfig, train

    given |= {"arms": words(arms), "seeds": _numbers(seeds)}
    config = TrainConfig(**{field.name: given[field.name] for field in dataclasses.fields(TrainConfig)})
    directory = _directory(out, config, resume)
    console = progress.make_console(as_json)

    def watcher(
        model: "nn.Module", optimizer: "Optimizer", on_finding: "Callable[[Finding], object]"
    ) -> Watch:
        return Watch(
            model,
            every=WATCH_EVERY,
            optimizer=optimizer,
            on_finding=on_finding,
            accumulation=config.accumulate,
        )

    data = load_fashion_mnist(data_dir, notify=lambda warning: progress.warn(str(warning)))
    with progress.Bars(console, config) as bars, contextlib.ExitStack() as stack:
        observer: Observer = bars
        if watch and progress.LEADS:
            from batchnorm.cli.watch import Watched, serve

            observer = Watched(bars, stack.enter_context(serve(directory)))
        try:
            run = train(config, data, directory, observer, resume=resume, watcher=watcher)
        except (KeyboardInterrupt, OSError):
            progress.warn(
                f"stopped; the same command with --resume --out {shlex.quote(str(directory))} "
                "goes on from the last epoch"
            )
            raise
    if not progress.LEADS:
        return
    for fault in read_faults(directory):
        if fault.finding.severity != "info":
            progress.warn(
                f"{fault.arm}, seed {fault.seed}, epoch {fault.epoch}: {fault.finding.code} "
                f"{fault.finding.name} in {fault.finding.layer or 'the model'}: {fault.finding.message}"
            )
    page = report.write(run, directory)
    if as_json:
        print(json.dumps({"directory": str(directory), **run.summary()}))
    else:
        table.show(console, run, directory, page)


def _numbers(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for word in words(text):
        begin, dash, end = word.partition("-")
        try:
            first, last = int(begin), int(end if dash else begin)
        except ValueError:
            raise ValueError(f"train: seeds expected numbers as 0,1 or 0-5, got {text!r}") from None
        if last < first:
            raise ValueError(
                f"train: seeds expected the smaller number first, as {last}-{first}, got {word!r}"
            )
        if last - first >= MOST_SEEDS:
            raise ValueError(f"train: seeds expected at most {MOST_SEEDS} numbers in a range, got {text!r}")
        numbers += range(first, last + 1)
    return tuple(numbers)


def _directory(out: str | None, config: "TrainConfig", resume: bool) -> Path:
    """Where the run lives: as asked, or the newest run with these settings, or a new place.

    Raises:
        ValueError: If no directory is named where one has to be, or there is nothing to resume.
    """
    from batchnorm.train.directory import has_run

    if out == "":
        raise ValueError("train: out expected a directory, got an empty name")
    if out is not None:
        if resume and not has_run(Path(out)):
            raise ValueError(f"train: resume expected a run in {out}, got none")
        return Path(out)
    if "WORLD_SIZE" in os.environ:
        raise ValueError("train: out expected a directory when started by torchrun, got none")
    if not resume:
        return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{config.model}"
    for path in sorted(Path("runs").glob("*/config.json"), reverse=True):
        if read_object(path) == config.to_dict():
            return path.parent
    raise ValueError("train: resume expected a run with these settings under runs, got none")
