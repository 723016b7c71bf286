"""A child process and the group of processes around it, ended without hitting a stranger.

The number of a process, and of the group that it leads, is its own only until its parent has asked
how it ended (wait(2)): after that the kernel may give it to somebody else. So nothing here asks
before the last signal is sent.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from contextlib import suppress


class ProcessGroup:
    """The group of a child that was started with `start_new_session`; any thread may signal it.

    Nobody else may wait for or poll `process`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = os.pidfd_open(process.pid)
        self._lock = threading.Lock()
        self._reaped = False

    def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the child, which is not asked for its status yet; whether it has ended."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(timeout_s, 0.0) * 1000))

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing after `end`."""
        with self._lock, suppress(ProcessLookupError, PermissionError):
            if not self._reaped:
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def end(self) -> int:
        """Kill what is left of the group; the child's status, negative after a signal. Once."""
        self.kill()
        self.ended()
        with self._lock:
            self._reaped = True
            status = self._process.wait()
            os.close(self._ended)
        return status
