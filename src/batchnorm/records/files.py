"""Files that are whole or absent, never half-written."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from batchnorm.records.record import Record

__all__ = ["append_line", "atomic_file", "read_object", "read_records", "remove_unfinished", "write_atomic"]

R = TypeVar("R", bound=Record)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that takes its name only when it is complete.

    The bytes go to a temporary file beside ``path``, are forced to the disk and renamed. On an
    exception the temporary file is removed and whatever stood at ``path`` is untouched.

    Args:
        path: Where the file shall stand; its directory must exist.

    Raises:
        OSError: As the file system reports it (no space, no permission), of ``path``.

    Example:
        >>> import pathlib, tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_file(target) as file:
        ...     _ = file.write(b"whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    hidden, temporary = f".{path.name}.", ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=hidden)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode an ordinary open() would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        # A full disk does not say which file it was, and nobody knows the temporary one.
        if isinstance(error, OSError) and (error.filename is None or hidden in str(error.filename)):
            error.filename = str(path)
            del error.filename2
        raise


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a whole file in one step: a reader sees the old content or the new, nothing between.

    Args:
        path: Where the file shall stand; its directory must exist.
        content: Text (stored as UTF-8) or bytes.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_unfinished(directory: Path, names: Container[str], before: float = math.inf) -> None:
    """Remove what writers of files left behind who were killed.

    Args:
        directory: Where the files are.
        names: Theirs, as given to `atomic_file`.
        before: Leave alone what was written after this time, in seconds since the epoch. Who gives none
            knows that nobody writes now.
    """
    for left in directory.glob(f".*.{'?' * 8}"):  # mkstemp's eight characters
        name = left.name[1:-9]
        with contextlib.suppress(FileNotFoundError):
            if name in names and left.stat().st_mtime < before:
                left.unlink()


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line and force it to the disk.

    A line is one ``write``; a process killed in between leaves at most one unfinished last line,
    which a reader of JSON lines drops.

    Args:
        path: The file; made if absent.
        line: Text without a line end.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a file of JSON lines, without the unfinished last line of a killed process.

    Args:
        path: The file; one that is absent has no lines.
        kind: What each line is.

    Raises:
        ValueError: If another line is not one; the text names file and line.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            row = json.loads(line.decode())
        except ValueError as error:
            if not line.endswith(b"\n"):  # only the last can be without an end
                return
            raise ValueError(f"records: {path} expected JSON on line {number}, got {error}") from error
        try:
            record = kind.from_dict(row)
        except (TypeError, ValueError) as error:
            raise ValueError(f"records: {path}, line {number}: {error}") from error
        yield record


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: If it is absent, or holds something else; the text names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"records: {path} expected a JSON object, got {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"records: {path} expected a JSON object, got {type(value).__name__}")
    return value
