"""`shipline builder serve-stdio`: builds for another machine, which calls it over SSH; and
`dial-stdio`, which connects a program to a builder.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from shipline.build import parse_platforms
from shipline.cli import engine
from shipline.cli.builder import NAMED_BUILDER, timeout_option
from shipline.cli.interrupts import run_cancellable
from shipline.errors import UsageError
from shipline.tasks import TaskGroup

if TYPE_CHECKING:
    from shipline.grpc.connection import Pipe

_CHUNK = 1 << 16  # bytes


@click.command("serve-stdio")
def serve_stdio() -> None:
    """Build for another machine: answer in BuildKit's API on standard input and output.

    Builders with the driver ssh start it; it ends with its connection.
    """
    _refuse_terminal(
        "serve-stdio",
        "`shipline builder create --driver ssh ssh://HOST` makes a builder that uses it",
    )
    pipe = StdioPipe()
    engine.enter()
    from shipline.api import state_directory
    from shipline.builders.serving import serve

    run_cancellable(lambda: serve(pipe, state_directory().absolute()), pipe.close)


@click.command("dial-stdio")
@click.option("--platform", multiple=True, metavar="OS/ARCH", help="What the node is to build for.")
@click.option("--progress", default="none", hidden=True)
@NAMED_BUILDER
@timeout_option
def dial_stdio(
    platform: Sequence[str], progress: str, builder: str | None, timeout_s: float
) -> None:
    """Connect standard input and output to BuildKit's API of a builder.

    Clients of BuildKit (buildctl, and libraries) run it as the connection to a daemon.
    """
    from shipline.builders.instances import other_builder
    from shipline.builders.nodes import driver_of
    from shipline.cli.builders import find_builder

    if not (name := other_builder(builder, os.environ)):
        raise UsageError(
            "builds run in this process, which no other program can connect to",
            code="builder-incapable",
            hint="name a builder: --builder NAME",
        )
    found = find_builder(name)
    wanted = set(parse_platforms(platform))
    node = next((one for one in found.nodes if wanted & {*one.platforms}), found.nodes[0])
    _refuse_terminal("dial-stdio", "start it from a client of BuildKit")
    click.echo(f"builder: {name}", err=True)
    ours = StdioPipe()
    with driver_of(found, node, os.environ, timeout_s=timeout_s).dial() as theirs:
        run_cancellable(partial(_join, ours, theirs), ours.close)


def _join(ours: Pipe, theirs: Pipe) -> None:
    """Pass bytes on in both directions until one side ends."""
    with TaskGroup() as group:
        group.start(_pass_on, ours, theirs)
        _pass_on(theirs, ours)


def _pass_on(source: Pipe, target: Pipe) -> None:
    with suppress(OSError):  # of the side that has ended
        while data := source.read(_CHUNK):
            target.write(data)
    source.close()
    target.close()


def _refuse_terminal(command: str, hint: str) -> None:
    if sys.stdin.isatty() or sys.stdout.isatty():
        raise UsageError(
            f"{command} talks to a program, and this is a terminal",
            code="terminal-needed",
            hint=hint,
        )


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
