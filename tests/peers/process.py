"""Start a program, wait until it serves, end it by its process id."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_STOP_TIMEOUT_S = 20.0
_PORTS = range(20_000, 32_000)  # Linux gives clients 32768 and above
_reserved: list[socket.socket] = []  # with names that are taken until this process ends


class PeerFailed(Exception):
    """A peer did not start or ended early; the message holds the end of its log."""


def free_port() -> int:
    """A TCP port of the loopback address for a server that must be told one: nobody listens on it,
    no other test process gets it before this one ends, and no client, whose ports lie above.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        name = socket.socket(socket.AF_UNIX)
        with suppress(OSError), socket.socket() as probe:
            name.bind(f"\0shipline-test-port-{port}")
            probe.bind(("127.0.0.1", port))
            _reserved.append(name)
            return port
        name.close()
    raise PeerFailed("no port is free")


def listening(port: int) -> bool:
    """True when the loopback port takes connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    ready: Callable[[], bool],
    log: Path,
    timeout_s: float = 60.0,
    environment: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends; entered once `ready` says so.

    The program also ends when this process is killed, or the thread ends that started it. Output
    goes to `log`. Raises PeerFailed when the program ends or is not ready in `timeout_s`.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait(process, command, ready, log, timeout_s)
        yield process
    finally:
        _stop(process)


def _wait(
    process: subprocess.Popen[bytes],
    command: Sequence[str | Path],
    ready: Callable[[], bool],
    log: Path,
    timeout_s: float,
) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        status = process.poll()
        if status is not None:
            raise PeerFailed(f"{command[0]} ended with status {status}\n{tail(log)}")
        if time.monotonic() > deadline:
            raise PeerFailed(f"{command[0]} was not ready after {timeout_s:.0f} s\n{tail(log)}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the program to end, then end its session: what it started may have outlived it."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, each marked as quoted."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join(f"  | {line}" for line in text)
