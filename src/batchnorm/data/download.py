"""Fetching the files of Fashion-MNIST from a mirror into the cache."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from batchnorm.data.files import ChecksumError, DataFile, decode, read
from batchnorm.records import remove_unfinished, write_atomic

__all__ = ["MIRRORS", "DataWarning", "fetch"]

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)

# To connect, and between two pieces of an answer. Short: another mirror or the sample stands ready.
TIMEOUTS_SECONDS = (3.0, 15.0)

# What another process writes now is younger.
WRITTEN_SECONDS = 3600.0


class DataWarning(UserWarning):
    """A source of the data was passed over, or could not be kept in the cache."""


def fetch(
    files: Mapping[str, DataFile],
    mirrors: Sequence[str],
    cache: Path,
    *,
    progress: bool,
    notify: Callable[[DataWarning], object],
) -> tuple[dict[str, Tensor], str] | None:
    """Get every file that the cache lacks from the first mirror that has it.

    A file stays in memory until its checksum is right and is then written in one step, so that
    whenever the process is killed the cache holds whole files only. A cache that cannot be written
    costs a notice, not the data.

    Args:
        files: What to get.
        mirrors: Addresses of directories that hold the files with ``.gz`` behind their names.
        cache: Directory to keep them in; made if absent.
        progress: Whether to draw a bar for each file on the error stream.
        notify: Told of each mirror that failed and of a cache that cannot be written.

    Returns:
        The arrays by the keys of ``files``, and the last mirror used; None if no mirror sufficed.

    Raises:
        ImportError: If pooch is not installed.
    """
    arrays = {}
    for key, file in files.items():
        with contextlib.suppress(OSError, ChecksumError):
            arrays[key] = read(cache, file)
    writable = True
    for mirror in mirrors:
        try:
            for key, file in files.items():
                if key in arrays:
                    continue
                address = f"{mirror.rstrip('/')}/{file.name}.gz"
                raw = _get(address, progress)
                arrays[key] = decode(raw, file, address)
                writable = writable and _keep(cache, f"{file.name}.gz", raw, notify)
        except ChecksumError as error:
            notify(DataWarning(str(error)))
        # requests raises OSErrors, but lets the ValueErrors of nonsense in an answer's headers through.
        except (OSError, ValueError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = type(error).__name__ if status is None else f"status {status}"
            notify(DataWarning(f"load_fashion_mnist: {address} expected a file, got {reason}"))
        else:
            return arrays, mirror
    return None


def _get(address: str, progress: bool) -> bytes:
    import pooch  # type: ignore[import-untyped] # and slow: 0.1 s that only a download needs

    raw = io.BytesIO()
    with _bar(address.rpartition("/")[2], progress) as bar:
        pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=TIMEOUTS_SECONDS)(address, raw, None)
    return raw.getvalue()


def _keep(cache: Path, name: str, content: bytes, notify: Callable[[DataWarning], object]) -> bool:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_unfinished(cache, {name}, before=time.time() - WRITTEN_SECONDS)
        write_atomic(cache / name, content)
    except OSError as error:
        notify(
            DataWarning(
                f"load_fashion_mnist: {cache} expected room for {name}, got {error}; downloads are not kept"
            )
        )
        return False
    return True


@contextlib.contextmanager
def _bar(title: str, show: bool) -> Iterator["_Bar | None"]:
    if not show:
        yield None
        return
    bar = _Bar(title)
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """What pooch asks of a progress bar, drawn by rich."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._drawn = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._drawn.add_task(title, total=None)
        self._drawn.start()

    @property
    def total(self) -> float | None:
        """Bytes to come, as the server says."""
        return self._drawn.tasks[0].total

    @total.setter
    def total(self, count: int) -> None:
        self._drawn.update(self._task, total=count or None)  # 0: the server does not say

    def update(self, count: int) -> None:
        """So many bytes came."""
        self._drawn.update(self._task, advance=count)

    def reset(self) -> None:
        """Back to no bytes; pooch does so before it fills the bar for good."""
        self._drawn.update(self._task, completed=0)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._drawn.stop()
