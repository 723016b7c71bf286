"""Last uses of cached files, and eviction that cannot race with a use.

The last use is the modification time of a file. A user touches the file first, under a shared lock;
eviction checks the time under the exclusive lock. So either the touch comes first and the file
stays, or `touch` reports that it is gone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from shipline.tasks import flocked


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock the file `path` for the block; yields False if it is held elsewhere."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # never waits, on a FIFO too
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        locked = False
    try:
        yield locked
    finally:
        os.close(fd)


class Recency:
    """Last uses of files, synchronised across processes by flock(2) on the file `lock`."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock

    def touch(self, path: Path) -> bool:
        """Mark `path` as used now. Returns whether it exists."""
        with self._held(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            except PermissionError:  # another user's file: it is not evicted from here either
                return path.exists()
            return True

    def evict(self, path: Path, witness: Path, before: Callable[[], float], trash: Path) -> bool:
        """Move `path` to `trash` unless `witness`, which is touched for it, was used at or after
        `before` (seconds since the epoch), asked while nothing is touched. Returns whether it is
        gone.
        """
        with self._held(fcntl.LOCK_EX):
            with suppress(FileNotFoundError):  # incomplete: nothing may rely on it
                if witness.stat().st_mtime >= before():
                    return False
            with suppress(FileNotFoundError):
                os.rename(path, trash)
            return True

    def _held(self, operation: int) -> AbstractContextManager[None]:
        return flocked(self._lock, operation, os.O_RDONLY | os.O_NONBLOCK | os.O_CREAT)
