"""A command whose processes all die with the thread that waits for it.

The command is the first process of a PID namespace: when it ends or is killed, the kernel kills
all others before its end is reported. It is killed when our thread dies for any reason
(PR_SET_PDEATHSIG, prctl(2)), so kill -9 of this program leaves nothing behind. The signal is set
before the command starts: a shell reports that it is ready and waits for a line, which a dead
parent never sends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from shipline.errors import SandboxError
from shipline.sandbox import kernel
from shipline.tasks import TaskGroup, check, on_cancel

OnOutput = Callable[[bytes, int], None]
_CHUNK = 64 << 10  # bytes
_DRAIN_S = 5.0  # for the last output of a process that has ended
_HANDSHAKE = 'echo && read -r go && exec "$@" </dev/null'
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def supervise(
    command: Sequence[str], on_output: OnOutput, join: Callable[[int], None] = lambda process: None
) -> int:
    """Run `command` with an empty environment and no input; its status, 128 + n after signal n.

    `join` is called with the process ID before the command starts. `on_output(data, stream)` gets
    all output, stream 1 or 2. When this returns or raises, no process of the command is left.
    Raises Cancelled when interrupted, SandboxError when this machine cannot isolate it.
    """
    check()
    command = [*_prefix(), "step", *command]
    with TaskGroup() as group:  # a new thread: its children stay in the new namespace
        task = group.start(_supervise, command, on_output, join)
    return task.result()


def _supervise(command: Sequence[str], on_output: OnOutput, join: Callable[[int], None]) -> int:
    try:
        kernel.unshare(kernel.CLONE_NEWPID)
    except OSError as error:
        raise kernel.sandbox_error("cannot create a PID namespace", error) from error
    tree = _ProcessTree(command)
    try:
        with on_cancel(tree.kill):
            status = tree.wait(on_output, join)
        check()
        return status if status >= 0 else 128 - status
    finally:
        tree.close()


@cache
def _prefix() -> tuple[str, ...]:
    missing = [name for name in ("setpriv", "unshare", "sh") if shutil.which(name) is None]
    if missing:
        raise SandboxError(
            f"cannot isolate a step: no {' and no '.join(missing)} on the PATH",
            code="program-missing",
            hint="install the package util-linux",
        )
    return ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount-proc", "sh", "-c", _HANDSHAKE)


class _ProcessTree:
    """A running command and all its descendants."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # Ctrl-C reaches it by cancellation only
        )
        self._ended = os.pidfd_open(self._process.pid)
        self._open = True
        self._lock = threading.Lock()

    def wait(self, on_output: OnOutput, join: Callable[[int], None]) -> int:
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        if os.read(stdout.fileno(), 1) != b"\n":
            words = os.read(stderr.fileno(), _CHUNK).decode(errors="replace").strip()
            check()
            raise SandboxError(
                f"cannot isolate a step: {words or 'no answer'}",
                code="isolation",
                hint="run as root or in a user namespace; util-linux must be 2.33 or newer",
            )
        join(self._process.pid)
        with suppress(BrokenPipeError):  # it was killed meanwhile
            stdin.write(b"\n")
        stdin.close()
        self._forward({stdout.fileno(): 1, stderr.fileno(): 2}, on_output)
        return self._process.wait()

    def kill(self) -> None:
        """Kill all processes; may be called from any thread, at any time."""
        with self._lock, suppress(ProcessLookupError):
            if self._open:
                signal.pidfd_send_signal(self._ended, signal.SIGKILL)

    def close(self) -> None:
        """Kill what is left, and wait for its end."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        with self._lock:
            self._open = False
            os.close(self._ended)

    def _forward(self, streams: dict[int, int], on_output: OnOutput) -> None:
        poll = select.poll()
        for descriptor in (*streams, self._ended):
            poll.register(descriptor, select.POLLIN)
        deadline = 0.0
        while streams:
            timeout_ms = None if not deadline else max(0.0, deadline - time.monotonic()) * 1000
            ready = poll.poll(timeout_ms)
            if not ready:
                return  # a process outside of the namespace holds the pipe open
            for descriptor, _ in ready:
                if descriptor == self._ended:
                    poll.unregister(descriptor)
                    deadline = time.monotonic() + _DRAIN_S
                elif data := os.read(descriptor, _CHUNK):
                    on_output(data, streams[descriptor])
                else:
                    poll.unregister(descriptor)
                    del streams[descriptor]
