"""Watching a training from a browser: what happens goes to the terminal and to the page."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from batchnorm.cli.progress import Bars, make_console
from batchnorm.report.live import LiveView

if TYPE_CHECKING:
    from batchnorm.records import EpochRecord

__all__ = ["Watched", "serve"]

PAUSE_S = 0.25  # between two lines of progress


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[LiveView]:
    """Serve a run's page, and say on standard error where.

    Args:
        directory: Of the run.
    """
    with LiveView(directory) as view:
        make_console(False, stderr=True).print(f"watch   {view.url}", soft_wrap=True)
        yield view


class Watched:
    """An `Observer` that passes everything on to a terminal's bars and tells the page.

    Args:
        bars: Of the terminal.
        view: The page's server.
    """

    def __init__(self, bars: Bars, view: LiveView) -> None:
        self.bars, self.view = bars, view
        self.where: dict[str, int | str] = {}
        self.total, self.told = 1, 0.0

    def trial(self, arm: str, seed: int, epoch: int, images: int) -> None:
        """An epoch begins."""
        self.bars.trial(arm, seed, epoch, images)
        self.where = {"arm": arm, "seed": seed, "epoch": epoch, "epochs": self.bars.config.epochs}
        self.total = images

    def images(self, done: int, loss: float, accuracy: float) -> None:
        """Some steps are behind us."""
        self.bars.images(done, loss, accuracy)
        now = time.monotonic()
        if now - self.told >= PAUSE_S:
            self.told = now
            known = loss if math.isfinite(loss) else None
            progress = {"share": done / self.total, "loss": known, "accuracy": accuracy}
            self.view.tell("progress", {**self.where, **progress})

    def epoch(self, record: "EpochRecord") -> None:
        """An epoch is done and its rows are written."""
        self.bars.epoch(record)
        self.view.tell("epoch", {})
