"""`shipline builder serve-stdio`: builds for another machine, which calls it over SSH."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

import click

from shipline.cli import engine
from shipline.cli.interrupts import run_cancellable
from shipline.errors import UsageError


@click.command("serve-stdio")
def serve_stdio() -> None:
    """Build for another machine: answer in BuildKit's API on standard input and output.

    Builders with the driver ssh start it; it ends with its connection.
    """
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError(
            "serve-stdio talks to a program, and this is a terminal",
            code="terminal-needed",
            hint="`shipline builder create --driver ssh ssh://HOST` makes a builder that uses it",
        )
    pipe = StdioPipe()
    engine.enter()
    from shipline.api import state_directory
    from shipline.builders.serving import serve

    run_cancellable(lambda: serve(pipe, state_directory().absolute()), pipe.close)


class StdioPipe:
    """Standard input and output, which nothing else writes to from now on."""

    def __init__(self) -> None:
        self._input, self._output = os.dup(0), os.dup(1)
        os.dup2(2, 1)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        self._woken, self._wake = os.pipe()

    def read(self, size: int) -> bytes:
        ready, _, _ = select.select([self._input, self._woken], [], [])
        return b"" if self._woken in ready else os.read(self._input, size)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._output, view) :]

    def close(self) -> None:
        with suppress(OSError):
            os.write(self._wake, b"x")
