"""Every failure becomes a message on standard error and an exit status, here and nowhere else."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

import click

from shipline.errors import GateRefused, GateUndecided, RegistryError, ShiplineError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_BROKEN_PIPE = 1
_WIDEST = 100  # columns of a message


@dataclass(slots=True)
class Settings:
    """What holds for every command."""

    debug: bool = False


def report(failure: BaseException, settings: Settings) -> int:
    """Tell a person what happened; the exit status of the program."""
    if isinstance(failure, click.exceptions.Exit):
        return failure.exit_code
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 1
    if isinstance(failure, BrokenPipeError):
        return _silence()
    try:
        return _tell(failure, settings)
    except BrokenPipeError:
        return _silence()


def _tell(failure: BaseException, settings: Settings) -> int:
    if isinstance(failure, (KeyboardInterrupt, click.Abort)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(failure, click.ClickException):
        failure.show()
        return failure.exit_code
    if settings.debug or not isinstance(failure, ShiplineError):
        _traceback(failure)
    if not isinstance(failure, ShiplineError):
        return 1
    click.echo(explain(failure), err=True)
    return failure.exit_code


def message_width() -> int:
    """Columns for a message: those of the terminal, within what can be read."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


def explain(error: ShiplineError) -> str:
    """The message for a person: a box for what has a place in a Dockerfile, else lines."""
    from shipline.observe import can_encode, failure_box  # not needed where nothing fails

    if box := failure_box(error, unicode=can_encode(sys.stderr), width=message_width()):
        return box
    lines = [f"error: {error.message}"]
    if isinstance(error, (GateRefused, GateUndecided)):
        lines += [f"  - {verdict}" for verdict in error.verdicts]
    if isinstance(error, RegistryError):
        lines += [f"  {diagnostic}" for diagnostic in error.diagnostics]
    lines += [f"  {note}" for note in getattr(error, "__notes__", ())]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join(lines)


def _traceback(failure: BaseException) -> None:
    import traceback

    click.echo("".join(traceback.format_exception(failure)).rstrip(), err=True)


def _silence() -> int:
    """The reader went away: nothing more can be said, not even while the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return _BROKEN_PIPE
