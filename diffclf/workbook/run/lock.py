"""A lock on the folder of a profile's results: two runs at a time would remove and overwrite each other's records.

The lock is the operating system's (flock) and ends with its process, also when that is killed. The file states who
holds the lock. Without fcntl (Windows) there is none.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from diffclf.texttable import printable

try:
    import fcntl
except ImportError:
    fcntl = None

__all__ = ["locked"]

NAME = ".lock"


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be; raise ValueError at once if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+", encoding="utf-8", errors="replace") as file:  # not inherited by other programs
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = " ".join(file.read(500).split()) or "another process"
            raise ValueError(
                f"{what} must be run once at a time, got a second run: {holder} holds {folder / NAME}; "
                "wait for its end, or choose another folder by $DIFFCLF_REPORTS"
            ) from None
        file.truncate(0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        file.write(f"process {os.getpid()} ({printable(command)[:200]}), since {datetime.now():%Y-%m-%d %H:%M:%S},")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
