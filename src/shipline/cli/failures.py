"""The one place that turns failures into messages on standard error and exit statuses."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from dataclasses import dataclass

import click

from shipline.errors import Cancelled, ShiplineError, UsageError

INTERRUPTED = 130  # 128 + SIGINT, as in shells
_BROKEN_PIPE = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # files of builds have a name, and own errors
_MAX_WIDTH = 100  # columns of a message


@dataclass(slots=True)
class ProgramSettings:
    """Global settings; with `json_lines`, standard error is JSON, including failures."""

    debug: bool = False
    json_lines: bool = False


def report(failure: BaseException, settings: ProgramSettings) -> int:
    """Report the failure; returns the exit status."""
    if isinstance(failure, click.exceptions.Exit):
        return failure.exit_code
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 1
    if isinstance(failure, BrokenPipeError):
        return _discard_output()
    if isinstance(failure, OSError) and failure.errno in _FULL and failure.filename is None:
        click.echo(f"cannot write standard output: {failure.strerror}", err=True)
        return _discard_output()
    try:
        return _report(failure, settings)
    except BrokenPipeError:
        return _discard_output()


def _report(failure: BaseException, settings: ProgramSettings) -> int:
    if settings.json_lines:
        return _report_json(failure)
    if isinstance(failure, (KeyboardInterrupt, Cancelled, click.Abort)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(failure, click.exceptions.NoArgsIsHelpError):
        click.echo(failure.format_message(), err=True)
        return failure.exit_code
    if isinstance(failure, click.ClickException):
        click.echo(explain(_usage_error(failure)), err=True)
        return failure.exit_code
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC and not failure.filename:
        failure = ShiplineError("the output cannot be written: no space is left where it goes")
    if settings.debug or not isinstance(failure, ShiplineError):
        _traceback(failure)
    if not isinstance(failure, ShiplineError):
        return 1
    click.echo(explain(failure), err=True)
    return failure.exit_code


def _report_json(failure: BaseException) -> int:
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
    """The width of messages on a terminal; None elsewhere, because log lines are not wrapped."""
    if not sys.stderr.isatty():
        return None
    return min(shutil.get_terminal_size().columns, _MAX_WIDTH)


def explain(error: ShiplineError) -> str:
    """The error box."""
    from shipline.observe import can_encode, failure_box  # only needed for failures

    return failure_box(error, unicode=can_encode(sys.stderr), width=message_width())


def _usage_error(failure: click.ClickException) -> UsageError:
    """An error of click as a UsageError."""
    error = UsageError(failure.format_message(), hint=getattr(failure, "hint", ""))
    context = failure.ctx if isinstance(failure, click.UsageError) else None
    if context is not None and not error.hint:
        error.hint = f"`{context.command_path} --help` lists the options"
        error.add_note(" ".join(context.get_usage().split()))
    return error


def _traceback(failure: BaseException) -> None:
    import traceback

    click.echo("".join(traceback.format_exception(failure)).rstrip(), err=True)


def _discard_output() -> int:
    """The reader is gone: discard further output, including that of interpreter exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(devnull, stream.fileno())
    os.close(devnull)
    return _BROKEN_PIPE
