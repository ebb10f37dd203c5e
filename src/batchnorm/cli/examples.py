"""Inputs and files of the commands that write a model."""

import contextlib
import operator
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from batchnorm.records import error_line

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "WatchedLoader",
    "check_out",
    "example_of",
    "expect_runs",
    "first_input",
    "load_batches",
    "pack_checked",
    "theirs",
]


@contextlib.contextmanager
def theirs(op: str, expected: str) -> Iterator[None]:
    """Run a person's code: whatever it raises is no fault of ours, but one line.

    Args:
        op: Who asks, for errors.
        expected: The argument that the code stands for, and what is expected of it.
    """
    try:
        yield
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{op}: {expected}, got {error_line(error)}") from error


def check_out(op: str, out: Path, suffixes: tuple[str, ...], force: bool) -> None:
    """Refuse a place where nothing may be written, before anything takes time."""
    if out.suffix not in suffixes:
        raise ValueError(f"{op}: out expected to end in {' or '.join(suffixes)}, got {out}")
    if out.is_dir():
        raise ValueError(f"{op}: out expected a file, got the directory {out}")
    if out.exists() and not force:
        raise ValueError(f"{op}: out expected a new file, or --force, got {out}")
    if not out.parent.is_dir():
        raise ValueError(f"{op}: out expected a file in a directory that exists, got {out}")


def expect_runs(op: str, model: "nn.Module", example: Any) -> None:
    """Refuse a model that does not run on the example, before that looks like a fault of ours."""
    from batchnorm.surgery.equivalence import outputs_of

    with theirs(op, "target expected a model that runs on the input"):
        outputs_of(model, example)


def load_batches(op: str, text: str) -> Iterable[Any]:
    """What a data factory returns."""
    from batchnorm.targets import load_factory

    batches = load_factory(op, "data", text)()
    if not isinstance(batches, Iterable):
        raise ValueError(f"{op}: data expected an iterable of batches, got {type(batches).__name__}")
    return batches


def example_of(op: str, shape: str | None, data: str | None) -> Any:
    """An input of the model: random numbers of a shape, or the first batch of a data factory; or None."""
    import torch

    if data is not None:
        return first_input(op, load_batches(op, data))
    if shape is None:
        return None
    try:
        sizes = [int(size) for size in shape.split("x")]
    except ValueError:
        raise ValueError(f"{op}: input expected sizes as 1x3x224x224, got {shape!r}") from None
    if min(sizes) < 1:
        raise ValueError(f"{op}: input expected sizes of at least 1, got {shape!r}")
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0))


def first_input(op: str, batches: Iterable[Any]) -> Any:
    """What the model is given of the first batch."""
    from batchnorm.surgery.feed import model_input

    with theirs(op, "data expected an iterable of batches"):
        return model_input(next(iter(batches), None), op, "data")


def pack_checked(
    op: str, model: "nn.Module", metadata: Mapping[str, str], fresh: "nn.Module | None", example: Any
) -> bytes:
    """A model's tensors as a safetensors file which, put into a fresh model, predicts the same.

    Args:
        op: Who asks, for errors.
        model: Whose tensors.
        metadata: Of the file.
        fresh: What a reader of the file will put it into; None not to check.
        example: Input to check with.

    Raises:
        ValueError: If the predictions differ: then the model has something that its state dict lacks.
    """
    from batchnorm.surgery.equivalence import check_difference, outputs_of
    from batchnorm.targets import pack_state, put_state, unpack_state

    content = pack_state(model.state_dict(), metadata)
    if fresh is not None:
        put_state(op, fresh, unpack_state(op, content, "the file"), "the file")
        check_difference(op, outputs_of(model, example), outputs_of(fresh, example), None)
    return content


class WatchedLoader:
    """A loader with a progress bar; each pass over it begins anew, and an error in it is one line.

    Args:
        op: Who asks, for errors.
        loader: Any iterable that can be passed over again.
        console: Where; a terminal sees the bar, anything else nothing.
    """

    def __init__(self, op: str, loader: Iterable[Any], console: Console) -> None:
        self.op = op
        self.loader = loader
        self.passes = 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )

    def __iter__(self) -> Iterator["Tensor | Any"]:
        """Pass over the loader."""
        self.passes += 1
        total = operator.length_hint(self.loader) or None  # a DataLoader of a stream has a len() that raises
        with self.progress, theirs(self.op, "data expected an iterable of batches"):
            task = self.progress.add_task(f"pass {self.passes}, batches", total=total)
            for batch in self.loader:
                yield batch
                self.progress.advance(task)
            self.progress.remove_task(task)
