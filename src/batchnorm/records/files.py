"""Files that are whole or absent, never half-written."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["append_line", "atomic_file", "read_lines", "write_atomic"]


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that takes its name only when it is complete.

    The bytes go to a temporary file beside ``path``, are forced to the disk and renamed. On an
    exception the temporary file is removed and whatever stood at ``path`` is untouched.

    Args:
        path: Where the file shall stand; its directory must exist.

    Raises:
        OSError: As the file system reports it (no space, no permission).

    Example:
        >>> import pathlib, tempfile
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_file(target) as file:
        ...     _ = file.write(b"whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
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
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was
        raise


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a whole file in one step: a reader sees the old content or the new, nothing between.

    Args:
        path: Where the file shall stand; its directory must exist.
        content: Text (stored as UTF-8) or bytes.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


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


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, without the unfinished last line of a killed process.

    Args:
        path: The file; one that is absent has no lines.

    Raises:
        ValueError: If another line is not JSON; the text names it.
    """
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines):  # a killed process leaves at most one unfinished line, the last
                return
            raise ValueError(f"records: {path} expected JSON on line {number}, got {error}") from error
