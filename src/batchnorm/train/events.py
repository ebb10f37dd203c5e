"""The epochs as TensorBoard events, for those who watch their runs there."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batchnorm.records import EpochRecord

__all__ = ["EventWriter"]


class EventWriter:
    """Writes ``events/<arm>-<seed>/``; does nothing where TensorBoard is not installed.

    Args:
        directory: Of the run.
        arm: Names the curve.
        seed: Names the curve.
        done: Epochs already written; later ones of a killed run are hidden.
        active: False in processes that do not write records.
    """

    def __init__(self, directory: Path, arm: str, seed: int, done: int, *, active: bool) -> None:
        self.writer: Any = None
        if not active:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        path = directory / "events" / f"{arm}-{seed}"
        self.writer = SummaryWriter(str(path), purge_step=done + 1)

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush and close."""
        if self.writer is not None:
            self.writer.close()

    def write(self, record: EpochRecord) -> None:
        """Add one point to each curve."""
        if self.writer is None:
            return
        for name, value in record.to_dict().items():
            if name not in ("arm", "seed", "epoch") and value is not None:
                self.writer.add_scalar(name, value, record.epoch)
        self.writer.flush()
