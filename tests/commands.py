"""`shipline` as a process of its own that begins with its modules loaded, in a tenth of the time.

A server without threads, one for each process that runs tests, forks for each command. How the
program begins (what it imports, how it reads its locale) is seen with a fresh interpreter only.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import shipline
from shipline.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        module.name
        for module in pkgutil.walk_packages(shipline.__path__, "shipline.")
        if module.name != "shipline.__main__"
    ]
)


def run_shipline(
    *words: str | Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    program: Callable[[Sequence[str]], int] = main,
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run the command line `words` in `cwd` with `environ`, each that of this process if not given.

    Raises subprocess.TimeoutExpired.
    """
    with tempfile.TemporaryDirectory() as place:
        files = [os.path.join(place, name) for name in ("in", "out", "err")]
        Path(files[0]).write_text(stdin)
        arguments = [str(word) for word in words]
        process = _FORKS.Process(
            target=_command,
            args=(
                program,
                arguments,
                cwd or Path.cwd(),
                dict(os.environ if environ is None else environ),
                files,
            ),
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout_s)
        out, err = (Path(file).read_bytes().decode() for file in files[1:])
        return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def _command(
    program: Callable[[Sequence[str]], int],
    words: Sequence[str],
    cwd: Path,
    environ: Mapping[str, str],
    files: Sequence[str],
) -> None:
    for number, file in enumerate(files):
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = _text(0, "r"), _text(1, "w")
    sys.stderr = _text(2, "w", errors="backslashreplace")
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.exit(program(words))


def _text(number: int, mode: str, errors: str = "strict") -> IO[str]:
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)
