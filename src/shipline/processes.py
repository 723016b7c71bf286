"""Running programs: each with a process group of its own, which ends as a whole.

A pid, and the process group named after it, is reserved only until the parent has waited for it
(wait(2)): then the kernel may reuse it. So nothing here waits before the last signal is sent.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from msgspec import Struct

from shipline.tasks import check

_CHUNK = 1 << 16  # bytes
_GRACE_S = 5.0  # between SIGTERM and SIGKILL
_POLL_S = 0.2


class ProcessResult(Struct, frozen=True):
    """How a program ended: its exit status, 128 + N after signal N as in shells, and whether it was
    stopped at its time limit.
    """

    status: int
    timed_out: bool = False


def python_command(code: str) -> list[str]:
    """The command that runs `code` in a new interpreter with the modules of this one, be they in a
    virtual environment or in one file; those in the working directory are not among them.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]


@cache
def ssh_command() -> tuple[str, ...]:
    """`ssh` as the user who started this process.

    Root of a user namespace (`sandbox.enter_user_namespace`) has another home directory, and there
    /etc/ssh belongs to nobody, which ssh refuses. So it runs in one more namespace, where the user
    has the own id again, with the user's configuration alone.
    """
    ids = _ids_outside()
    if ids is None:
        return ("ssh",)
    import pwd

    try:
        home = Path(pwd.getpwuid(ids[0]).pw_dir)
    except KeyError:  # nor would ssh find a home directory
        return ("ssh", "-F", "none")
    config = home / ".ssh/config"
    ssh = ("ssh", "-F", str(config) if config.is_file() else "none")
    outer = ("unshare", "--user", f"--map-user={ids[0]}", f"--map-group={ids[1]}")
    with suppress(OSError):
        if subprocess.run([*outer, "true"], capture_output=True, check=False).returncode == 0:
            return (*outer, *ssh)
    return ssh


def _ids_outside() -> tuple[int, int] | None:
    """The user and group that root of this user namespace is outside; None if the root of the
    file system is in the namespace, as in a container.
    """
    if os.geteuid() != 0 or os.stat("/etc").st_uid == 0:
        return None
    maps = [Path(f"/proc/self/{kind}_map").read_text().split() for kind in ("uid", "gid")]
    return int(maps[0][1]), int(maps[1][1])


def run_process(
    argv: Sequence[str],
    *,
    directory: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    write: Callable[[bytes], object],
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int = subprocess.STDOUT,
) -> ProcessResult:
    """Run a program to its end; `write` gets its output, with standard error unless that is
    redirected.

    The program and everything that it started end when it does, at its time limit, when the calling
    thread is cancelled, and when this process dies in any way. Raises OSError if it cannot be
    started, Cancelled.
    """
    with _watcher() as watch:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=dict(environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        watch(process.pid)
        group = ProcessGroup(process)
        assert process.stdout is not None
        with process.stdout as output:
            try:
                timed_out = _follow(output, group, time.monotonic() + timeout_s, write)
            finally:
                group.terminate()
    status = process.returncode
    return ProcessResult(status if status >= 0 else 128 - status, timed_out)


@contextmanager
def _watcher() -> Iterator[Callable[[int], None]]:
    """A second process that kills a group once this process is gone: after SIGKILL only the kernel
    still acts, by closing this end of a pipe. It is started before the program, and then sent the
    number of its group.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", 'read -r group && { read -r _ || kill -KILL -"$group"; }'],
        stdin=subprocess.PIPE,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pipe = watcher.stdin
    assert pipe is not None

    def watch(group: int) -> None:
        os.write(pipe.fileno(), b"%d\n" % group)

    try:
        yield watch
    finally:
        watcher.kill()
        watcher.communicate()


def _follow(
    output: IO[bytes], group: ProcessGroup, deadline: float, write: Callable[[bytes], object]
) -> bool:
    """Read output until the program ends; returns whether its time was up before.

    Daemons that keep the output open after the program has ended are not waited for.
    """
    fd = output.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            check()
            ended = group.ended(0)
            if selector.select(0 if ended else _POLL_S):
                data = os.read(fd, _CHUNK)
                if not data:
                    return not group.ended(deadline - time.monotonic())
                write(data)
            elif ended:
                return False
            if time.monotonic() > deadline:
                return True


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

    def terminate(self) -> int:
        """End the child, with time to clean up: SIGTERM, then `end`. Call once."""
        if not self.ended(0):
            self.signal(signal.SIGTERM)
            self.ended(_GRACE_S)
        return self.end()

    def end(self) -> int:
        """Kill the group and reap the child; its status, negative after a signal. Call once."""
        self.kill()
        self.ended()
        with self._lock:
            self._reaped = True
            status = self._process.wait()
            os.close(self._ended)
        return status
