"""A lock of a folder: only one run at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from tfmtl.errors import DataError


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Locks the folder for this process. The system releases the lock when the process ends.

    Raises:
        DataError: Another process holds the lock.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DataError(
                f"another run (process {file.read().strip()}) is at work in {folder}. Wait for "
                "it, or give this one a folder of its own by --output."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
