"""One process at a time: a lock that ends with the process that holds it, however that ends."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock. Windows, and file systems without locks, let everyone pass.

    Args:
        path: A file for the number of the process that holds it, made if absent. It stays: two processes
            could hold two files of one name.

    Raises:
        BlockingIOError: If another process holds the lock; its ``strerror`` says which.
        OSError: If the file cannot be made.
    """
    with open(path, "a+", encoding="utf-8") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise BlockingIOError(error.errno, f"process {file.read()}".strip()) from error
            except OSError:  # some network drives have none
                pass
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
