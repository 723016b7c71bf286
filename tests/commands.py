"""Processes of their own that begin with the modules of shipline loaded, in a tenth of the time.

A server without threads, one for each process that runs tests, forks for each of them. How the
program begins (what it imports, how it reads its locale) is seen with a fresh interpreter only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import IO
from unittest.mock import patch

from shipline.cli import main
from sources import SOURCE

_FORKS = multiprocessing.get_context("forkserver")


@cache
def _start_server() -> None:
    """It loads this module too, which each process would have to load otherwise. PYTHONPATH tells
    where that is: the server does not get the path of this process before Python 3.13.
    """
    program = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    _FORKS.set_forkserver_preload([*program, __name__])
    with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parent)):
        forkserver.ensure_running()


class Forked:
    """A process that calls `function(*arguments)` and ends with the status that it returns.

    Has what tests need of subprocess.Popen. Input is read from a file, output appended to files.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        *arguments: object,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        stdin: Path = Path(os.devnull),
        stdout: Path = Path(os.devnull),
        stderr: Path = Path(os.devnull),
    ) -> None:
        environ = dict(os.environ if environ is None else environ)
        words = (cwd or Path.cwd(), environ, (stdin, stdout, stderr), function, arguments)
        _start_server()
        self._process = _FORKS.Process(target=_call, args=words, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its status. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_shipline(
    *words: str | Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: str | bytes = "",
    program: Callable[[list[str]], int] = main,
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run the command line `words` in `cwd` with `environ`, each that of this process if not given.

    Raises subprocess.TimeoutExpired.
    """
    arguments = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as place:
        source, out, err = (Path(place, name) for name in ("in", "out", "err"))
        source.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        command = Forked(
            program, arguments, cwd=cwd, environ=environ, stdin=source, stdout=out, stderr=err
        )
        try:
            status = command.wait(timeout_s)
        finally:
            command.kill()
        outputs = (file.read_bytes().decode(errors="replace") for file in (out, err))
        return subprocess.CompletedProcess(arguments, status, *outputs)


def hash_cheaply(put: Callable[[object, str, object], None] = setattr) -> None:
    """Let scrypt have N = 16 for every secret that this process stores from now on.

    What is stored says its parameters, so reading is the same code; what is read keeps its own.
    """
    from shipline.registry import keychain
    from shipline.server.access import login
    from shipline.supply import keyfile

    put(login, "_LOG_N", 4)
    put(keychain, "_COST", {**keychain._COST, "n": 16})
    put(keyfile, "_SCRYPT", {**keyfile._SCRYPT, "N": 16})


def main_hashing_cheaply(words: list[str]) -> int:
    """The program, which makes keys that are quickly opened; cosign refuses such."""
    hash_cheaply()
    return main(words)


def run(
    *words: str | Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run any program; `shipline` as `run_shipline` does. Raises subprocess.TimeoutExpired."""
    if words[0] == "shipline":
        return run_shipline(*words[1:], cwd=cwd, environ=environ, stdin=stdin, timeout_s=timeout_s)
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def _call(
    cwd: Path,
    environ: Mapping[str, str],
    files: tuple[Path, Path, Path],
    function: Callable[..., int | None],
    arguments: tuple[object, ...],
) -> None:
    for number, file in enumerate(files):
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = _text(0, "r"), _text(1, "w")
    sys.stderr = _text(2, "w", errors="backslashreplace")
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.exit(function(*arguments))


def _text(number: int, mode: str, errors: str = "strict") -> IO[str]:
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)
