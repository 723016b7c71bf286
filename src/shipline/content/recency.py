"""When files of a cache were last used, and their eviction, which never meets a use.

The last use is the modification time of a file. Whoever relies on a file touches it first; whoever
evicts looks at the time under a lock that touches share. So either the touch came first and the
file stays, or it is missing, which the toucher is told.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Recency:
    """Last uses of files, kept in order by flock(2) on the file `lock`, across processes."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock

    def touch(self, path: Path) -> bool:
        """Note that `path` is used from now on. Returns whether it exists."""
        with self._held(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            except PermissionError:  # of another user: not evicted from here either
                return path.exists()
            return True

    def evict(self, path: Path, witness: Path, before: float, trash: Path) -> bool:
        """Move `path` to `trash` unless `witness`, which is touched for it, was used at or after
        `before` (seconds since the epoch). Returns whether it is gone.
        """
        with self._held(fcntl.LOCK_EX):
            with suppress(FileNotFoundError):  # incomplete: nobody may rely on it
                if witness.stat().st_mtime >= before:
                    return False
            with suppress(FileNotFoundError):
                os.rename(path, trash)
            return True

    @contextmanager
    def _held(self, operation: int) -> Iterator[None]:
        fd = os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, operation)
            yield
        finally:
            os.close(fd)
