"""A child process and its process group, ended without signalling an unrelated process.

A pid, and the process group named after it, is reserved only until the parent has waited for it
(wait(2)): then the kernel may reuse it. So nothing here waits before the last signal is sent.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from contextlib import suppress


class ProcessGroup:
    """The group of a child started with `start_new_session`; any thread may signal it.

    No other code may wait for or poll `process`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = os.pidfd_open(process.pid)
        self._lock = threading.Lock()
        self._reaped = False

    def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the child without reaping it; returns whether it has ended."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(timeout_s, 0.0) * 1000))

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; a no-op after `end`."""
        with self._lock, suppress(ProcessLookupError, PermissionError):
            if not self._reaped:
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def end(self) -> int:
        """Kill the group and reap the child; its status, negative after a signal. Call once."""
        self.kill()
        self.ended()
        with self._lock:
            self._reaped = True
            status = self._process.wait()
            os.close(self._ended)
        return status
