"""Some room on the disk that only a collection may use, so that a full disk can be emptied.

Removing records writes to the store of the records. `DIR/reserve` is a file without content that
holds the room for that.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)
_ROOM = 16 << 20  # bytes
_SHARE = 16  # of the disk at most the 16th part


class Reserve:
    def __init__(self, root: Path) -> None:
        self._path = root / "reserve"

    def hold(self) -> None:
        """Take the room where it is to be had; elsewhere say so in the log."""
        try:
            disk = os.statvfs(self._path.parent)
            room = min(_ROOM, disk.f_blocks * disk.f_frsize // _SHARE)
            if self._path.exists() and self._path.stat().st_blocks * 512 >= room:
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, room)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("no room in reserve for collections: %s", error)

    def release(self) -> None:
        """Let go of the room."""
        self._path.unlink(missing_ok=True)
