"""Bringing pushed blobs into the page cache once nobody waits for the disk.

Uploads go past the page cache (see `intake`), and what was pushed is what will be pulled next. So
blobs are read ahead while no upload runs; the kernel does the reading, and forgets what nobody
wants.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from shipline.errors import Cancelled
from shipline.oci import Digest
from shipline.server.journal import Event
from shipline.tasks import check, on_cancel, sleep

_log = logging.getLogger(__name__)
_PIECE = 1 << 20  # bytes that the kernel is asked for at once; it ignores a part of larger requests
_PIECES = 4  # between two looks at whether uploads run
_PAUSE_S = 0.005
_BUSY_S = 0.1
_WAITING = 256  # blobs; older ones are left to their first reader


class Warmer:
    """A Listener that remembers pushed blobs, and a loop that has them read."""

    def __init__(self, path_of: Callable[[Digest], Path], busy: Callable[[], bool]) -> None:
        self._path_of = path_of
        self._busy = busy
        self._waiting: deque[str] = deque(maxlen=_WAITING)
        self._wake = threading.Event()

    def note(self, event: Event) -> None:
        if event.kind == "push" and event.media_type == "application/octet-stream":
            self._waiting.append(event.digest)
            self._wake.set()

    def run(self) -> None:
        """Until the scope is cancelled."""
        try:
            with on_cancel(self._wake.set):
                while True:
                    self._wake.wait()
                    check()
                    self._wake.clear()
                    while self._waiting:
                        self._warm(self._waiting.popleft())
        except Cancelled:
            return

    def _warm(self, digest: str) -> None:
        try:
            fd = os.open(self._path_of(Digest.parse(digest)), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # deleted meanwhile
        try:
            for position in range(0, os.fstat(fd).st_size, _PIECE):
                if position % (_PIECE * _PIECES) == 0:
                    self._wait_until_idle()
                os.posix_fadvise(fd, position, _PIECE, os.POSIX_FADV_WILLNEED)
        except OSError as error:
            _log.debug("cannot read ahead: %s", error)
        finally:
            os.close(fd)

    def _wait_until_idle(self) -> None:
        sleep(_PAUSE_S)
        while self._busy():
            sleep(_BUSY_S)
