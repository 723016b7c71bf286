"""Every failure becomes a message on standard error and an exit status, here and nowhere else."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

import click

from shipline.errors import Cancelled, ShiplineError, UsageError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_BROKEN_PIPE = 1
_WIDEST = 100  # columns of a message


@dataclass(slots=True)
class ProgramSettings:
    """What holds for every command; `json_lines`: standard error is JSON, also when it fails."""

    debug: bool = False
    json_lines: bool = False


def report(failure: BaseException, settings: ProgramSettings) -> int:
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


def _tell(failure: BaseException, settings: ProgramSettings) -> int:
    if settings.json_lines:
        return _tell_program(failure)
    if isinstance(failure, (KeyboardInterrupt, Cancelled, click.Abort)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(failure, click.ClickException):
        click.echo(explain(_usage_error(failure)), err=True)
        return failure.exit_code
    if settings.debug or not isinstance(failure, ShiplineError):
        _traceback(failure)
    if not isinstance(failure, ShiplineError):
        return 1
    click.echo(explain(failure), err=True)
    return failure.exit_code


def _tell_program(failure: BaseException) -> int:
    from shipline.observe import failure_line

    if isinstance(failure, (KeyboardInterrupt, Cancelled, click.Abort)):
        click.echo(failure_line(failure, "cancelled", INTERRUPTED), err=True)
        return INTERRUPTED
    if isinstance(failure, click.ClickException):
        failure = _usage_error(failure)
    code, status = "bug", 1
    if isinstance(failure, ShiplineError):
        code, status = failure.code, failure.exit_code
    click.echo(failure_line(failure, code, status), err=True)
    return status


def message_width() -> int | None:
    """Columns for a message on a terminal, within what can be read; None where it is no terminal:
    lines of logs stay whole.
    """
    if not sys.stderr.isatty():
        return None
    return min(shutil.get_terminal_size().columns, _WIDEST)


def explain(error: ShiplineError) -> str:
    """The box for a person."""
    from shipline.observe import can_encode, failure_box  # not needed where nothing fails

    return failure_box(error, unicode=can_encode(sys.stderr), width=message_width())


def _usage_error(failure: click.ClickException) -> UsageError:
    """What click says of a command line, as our own error."""
    error = UsageError(failure.format_message(), hint=getattr(failure, "hint", ""))
    context = failure.ctx if isinstance(failure, click.UsageError) else None
    if context is not None and not error.hint:
        error.hint = f"`{context.command_path} --help` lists the options"
        error.add_note(" ".join(context.get_usage().split()))
    return error


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
