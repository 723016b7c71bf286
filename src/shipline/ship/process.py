"""Running one command of the project: its environment, its time limit, its output.

A command has a session of its own. It ends, with everything that it started, when its time is up,
when the run is interrupted, and when this program dies in any way.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from shipline.errors import StepFailed
from shipline.processes import ProcessGroup
from shipline.tasks import check

LAST_LINES = 30
_NOT_FOUND = 127  # sh(1), "Exit Status"
_CHUNK = 1 << 16  # bytes
_GRACE_S = 5.0  # between asking a command to end and ending it
_POLL_S = 0.2
_USUAL = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"),
    *("TERM", "NO_COLOR", "FORCE_COLOR", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "XDG_*_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "SOURCE_DATE_EPOCH"),
)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. `log` has the last lines of its output, `timed_out` is whether it was
    stopped at its time limit.
    """

    status: int
    log: tuple[str, ...]
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 0 and not self.timed_out


def environment(
    environ: Mapping[str, str], names: Sequence[str], more: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a command: the usual variables, those that match `names`, and `more`."""
    allowed = (*_USUAL, *names)
    kept = {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in allowed)
    }
    return {**kept, **more}


def argv_of(run: str | Sequence[str]) -> tuple[str, ...]:
    """The arguments to start: a text is a script for `sh -e`."""
    return ("sh", "-ec", run) if isinstance(run, str) else tuple(run)


def run_command(
    argv: Sequence[str],
    *,
    directory: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    write: Callable[[bytes], object],
) -> CommandResult:
    """Run a command to its end; `write` gets its output and standard error, in order.

    Raises StepFailed where it cannot be started, Cancelled when interrupted.
    """
    tail: deque[bytes] = deque(maxlen=LAST_LINES + 1)
    with _started(argv, directory, environ) as (process, group):
        timed_out = _follow(
            process, group, time.monotonic() + timeout_s, lambda data: _take(data, tail, write)
        )
    status = process.returncode
    log = tuple(line.decode(errors="replace") for line in tail if line)[-LAST_LINES:]
    return CommandResult(status if status >= 0 else 128 - status, log, timed_out)


def _take(data: bytes, tail: deque[bytes], write: Callable[[bytes], object]) -> None:
    """Pass output on, and keep its last lines; the last one may be incomplete."""
    write(data)
    first, *others = data.split(b"\n")
    grown = (tail.pop() if tail else b"") + first
    tail.append(grown[-_CHUNK:])
    tail.extend(others)


def require_program(name: str, environ: Mapping[str, str]) -> None:
    """Raises StepFailed for a program that is not installed, with the status of a shell for it."""
    if shutil.which(name, path=environ.get("PATH")) is None:
        raise StepFailed(
            f"the program {name} is not installed",
            status=_NOT_FOUND,
            hint="install it, or correct the step",
        )


@contextmanager
def _started(
    argv: Sequence[str], directory: Path, environ: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], ProcessGroup]]:
    if not directory.is_dir():
        raise StepFailed(f"the working directory {directory} does not exist", status=1)
    require_program(argv[0], environ)
    with _watcher() as watch:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch(process.pid)
        group = ProcessGroup(process)
        try:
            yield process, group
        finally:
            _end(group)
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def _watcher() -> Iterator[Callable[[int], None]]:
    """A second process that kills the group once this program is gone: after a kill -9 only the
    kernel still acts for us, by closing our end of a pipe. It starts before the command, and reads
    the number of the group.
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
    process: subprocess.Popen[bytes],
    group: ProcessGroup,
    deadline: float,
    take: Callable[[bytes], object],
) -> bool:
    """Read output until the command ends; whether its time was up before.

    Daemons that keep the output open after the command has ended are not waited for.
    """
    assert process.stdout is not None
    fd = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            check()
            ended = group.ended(0)
            if selector.select(0 if ended else _POLL_S):
                data = os.read(fd, _CHUNK)
                if not data:
                    return not group.ended(deadline - time.monotonic())
                take(data)
            elif ended:
                return False
            if time.monotonic() > deadline:
                return True


def _end(group: ProcessGroup) -> None:
    """End the command and its group: SIGTERM, then SIGKILL."""
    if not group.ended(0):
        group.signal(signal.SIGTERM)
        group.ended(_GRACE_S)
    group.end()
