"""The progress bar of a training run, and lines for the person at the terminal."""

import os
import shutil
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from batchnorm.records import EpochRecord
    from batchnorm.train import TrainConfig

__all__ = ["ENDLESS", "LEADS", "Bars", "make_console", "warn"]

# torchrun starts many of us; one talks.
LEADS = os.environ.get("RANK", "0") == "0"
# Columns of what is no terminal: rich would give it 80, or COLUMNS.
ENDLESS = 1_000_000


def make_console(quiet: bool, *, stderr: bool = False) -> Console:
    """Console for results: standard output, or nothing.

    Text is printed as it stands, whatever brackets and colons a path has; a style needs a `Text`. What is
    no terminal gets every line whole.

    Args:
        quiet: Print nothing.
        stderr: To standard error instead.
    """
    console = Console(quiet=quiet or not LEADS, stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = ENDLESS
    elif console.width < 1:
        # rich takes COLUMNS=0 at its word and would print nothing
        console.width = shutil.get_terminal_size().columns
    return console


def warn(text: str) -> None:
    """A loud line on standard error."""
    make_console(False, stderr=True).print(Text.assemble(("!", "bold yellow"), f" {text}"), soft_wrap=True)


class Bars:
    """An `Observer` that draws: one line per finished epoch, and a bar with what is going on.

    Draws on a terminal only; elsewhere it is silent.

    Args:
        console: Where.
        config: Says how much there is to do.
    """

    def __init__(self, console: Console, config: "TrainConfig") -> None:
        self.config = config
        self.active = console.is_terminal and not console.quiet
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not self.active,
        )
        self.task: TaskID | None = None
        self.size = self.before = 0
        self.start = 0.0

    def __enter__(self) -> Self:
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the bar."""
        self.progress.stop()

    def trial(self, arm: str, seed: int, epoch: int, images: int) -> None:
        """An epoch begins."""
        trials = [(arm_, seed_) for seed_ in self.config.seeds for arm_ in self.config.arms]
        epochs = self.config.epochs
        if self.task is None:
            self.task = self.progress.add_task("", total=images * epochs * len(trials), state="")
        self.before = images * (epochs * trials.index((arm, seed)) + epoch - 1)
        self.start = time.perf_counter()
        self.progress.update(
            self.task, completed=self.before, description=f"{arm} seed {seed} epoch {epoch}/{epochs}"
        )

    def images(self, done: int, loss: float, accuracy: float) -> None:
        """Some steps are behind us."""
        if self.task is not None:
            rate = done / (time.perf_counter() - self.start)
            state = f"loss {loss:.3f} acc {accuracy:.3f} {rate:,.0f} images/s"
            self.progress.update(self.task, completed=self.before + done, state=state)

    def epoch(self, record: "EpochRecord") -> None:
        """An epoch is done."""
        if self.active:
            self.progress.console.print(
                f"{record.arm:>7} seed {record.seed} epoch {record.epoch:>2}  loss {record.loss:.3f}  "
                f"train acc {record.train_accuracy:.3f}  test acc {record.test_accuracy_running:.3f} "
                f"running, {record.test_accuracy_recalibrated:.3f} recalibrated"
            )
