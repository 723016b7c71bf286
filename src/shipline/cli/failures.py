"""The one place that turns failures into messages on standard error and exit statuses, also those
of standard output itself.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from shipline.cli.entry import is_buildx, is_interrupt
from shipline.errors import Cancelled, ConfigError, ContentError, ShiplineError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

INTERRUPTED = 130  # 128 + SIGINT, as in shells
_BROKEN_PIPE = 1
_WRONG_FLAG = 125  # of a plugin of docker
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAX_WIDTH = 100  # columns of a message
_FLAG = re.compile("(--[a-z-]+): ")
_NO_TAG = re.compile(r"(\S+) has no tag (\S+)")
_NO_DIGEST = re.compile(r"(\S+) is not in (\S+)")
_PARSED_FIRST = frozenset(
    f"--{name}"
    for name in (
        *("annotation", "attest", "build-arg", "build-context", "cache-from", "cache-to"),
        *("label", "secret", "shm-size", "ulimit"),
    )
)
"""Flags of buildx whose wrong values are found before it begins to build."""
_REFUSED_BY_PARSER = re.compile(
    "--(shm-size|ulimit|filter|timeout|reserved-space|min-free-space|max-used-space|keep-storage):"
    "|--[a-z-]+: .* is neither true nor false$"
)
"""What the parser of buildx's command line refuses; its commands refuse other wrong values."""


class ProgramSettings:
    """Global settings; with `json_lines`, standard error is JSON, including failures. `arguments`
    are the words of the command line, `repeated` whether a failure says how to repeat it. With
    `as_buildx`, exit statuses are those of buildx.
    """

    def __init__(self, arguments: tuple[str, ...] = (), *, as_buildx: bool = False) -> None:
        self.debug = self.json_lines = self.repeated = False
        self.arguments, self.as_buildx = arguments, as_buildx

    def again(self) -> str:
        """The command that repeats this one, without secrets; empty where it says nothing."""
        if not self.repeated:
            return ""
        from shipline.cli.repeating import repeatable  # only needed for failures

        return repeatable(self.arguments)


class _StandardOutput(io.FileIO):
    """Standard output. Raises ContentError where it is full, UsageError for other errors."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"cannot write standard output: {error.strerror}"
            if error.errno in _FULL:
                raise ContentError(
                    message, code="disk-full", hint="free some space there"
                ) from error
            hint = "send standard output to a file or program that takes it"
            raise UsageError(message, code="output-unwritable", hint=hint) from error


def open_standard_streams() -> None:
    """Have errors of standard output reported. A closed one stays an error for those who write,
    and closed standard input is empty; the numbers of closed streams are taken, so that no other
    file gets them.
    """
    number = 0
    while number <= 2:  # a pipe without a writer: empty, and there in a chroot without /dev
        number, writer = os.pipe()
        os.close(writer)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(_open_discard(), "w")  # noqa: SIM115
    before = sys.stdout
    if before is None or (isinstance(before, io.TextIOWrapper) and before.fileno() == 1):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_StandardOutput(1, "w", closefd=False)),
            before.encoding if before else None,
            before.errors if before else None,
            line_buffering=bool(before and before.line_buffering),
        )


def report(failure: BaseException, settings: ProgramSettings) -> int:
    """Report the failure; returns the exit status."""
    status = _reported(failure, settings)
    return _status_of_buildx(failure, status, os.environ) if settings.as_buildx else status


def _status_of_buildx(failure: BaseException, status: int, environ: Mapping[str, str]) -> int:
    """The exit status that buildx has for the failure: 1, and for flags that cannot be parsed that
    of the plugins of docker, where it runs this one.
    """
    if status in (0, INTERRUPTED):
        return status
    unparsed = isinstance(failure, (click.NoSuchOption, click.BadOptionUsage)) or (
        isinstance(failure, UsageError) and _REFUSED_BY_PARSER.match(failure.message)
    )
    is_plugin = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND" in environ
    return _WRONG_FLAG if unparsed and is_plugin else 1


def _reported(failure: BaseException, settings: ProgramSettings) -> int:
    if isinstance(failure, click.exceptions.Exit):
        return failure.exit_code
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 1
    if isinstance(failure, BrokenPipeError):
        return _discard_output()
    try:
        status = _report(failure, settings)
    except OSError:  # of standard error
        return _discard_output()
    try:
        sys.stdout.flush()
    except (OSError, ShiplineError):
        _discard_output()
    return status


def _report(failure: BaseException, settings: ProgramSettings) -> int:
    if settings.json_lines:
        return _report_json(failure, settings)
    if isinstance(failure, (Cancelled, click.Abort)) or is_interrupt(failure):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(failure, click.exceptions.NoArgsIsHelpError):
        click.echo(failure.format_message(), err=not settings.as_buildx)
        return 0 if settings.as_buildx else failure.exit_code
    if isinstance(failure, click.ClickException):
        _show(_usage_error(failure), settings)
        return failure.exit_code
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC and not failure.filename:
        failure = ShiplineError(
            "the output cannot be written: no space is left where it goes", code="disk-full"
        )
    if isinstance(failure, FileNotFoundError) and failure.filename == os.devnull:
        failure = UsageError(
            f"{os.devnull} is missing",
            code="no-dev-null",
            hint=f"mount /dev there, or `mknod -m 666 {os.devnull} c 1 3`",
        )
    if isinstance(failure, FileNotFoundError) and failure.filename is None and _is_lost():
        failure = UsageError(
            "the working directory was removed",
            code="working-directory-removed",
            hint="change to a directory that exists",
        )
    if settings.debug or not isinstance(failure, ShiplineError):
        _traceback(failure)
    if not isinstance(failure, ShiplineError):
        return 1
    for line in failure_annotations(failure):
        click.echo(line, err=True)
    again = "" if isinstance(failure, UsageError) else settings.again()
    _show(failure, settings, again)
    return failure.exit_code


def _show(error: ShiplineError, settings: ProgramSettings, again: str = "") -> None:
    if not is_buildx() or again or error.hint or error.span or error.run:
        click.echo(explain(error, again), err=True)  # else the last line says it all
    _end_as_buildx(error, settings)


def _end_as_buildx(
    error: ShiplineError, settings: ProgramSettings, *, with_source: bool = False
) -> None:
    """Print the last line of a failed buildx, which actions, scripts and docker compose read, and
    before it the lines of the Dockerfile, where no box shows them: docker compose prints both.
    """
    if not is_buildx():
        return
    if with_source and error.span is not None and error.span.source:
        from shipline.observe import source_of_buildx
        from shipline.values import replace

        named = replace(error.span, file=os.path.basename(error.span.file))
        click.echo("\n".join(source_of_buildx(named)), err=True)
    click.echo(_as_buildx(error, settings.arguments), err=True)


def _as_buildx(error: ShiplineError, arguments: Sequence[str]) -> str:
    from shipline.observe import clean

    target = f"{error.part}: " if error.part.startswith("target ") else ""
    refused = isinstance(error, (UsageError, ConfigError)) or error.code == "builder-incapable"
    solving = "" if refused else "failed to solve: "
    message = clean(error.message.partition("\n")[0].removeprefix(target))
    flag = _FLAG.match(message)
    message = message[flag.end() :] if flag else message
    if error.code == "image-not-found":
        message = _NO_TAG.sub(r"\1:\2: not found", message)
        message = _NO_DIGEST.sub(r"\2@\1: not found", message)
    wrong_flag = error.code == "usage" or (flag and flag[1] in _PARSED_FIRST)
    building = "failed to build: " if "build" in arguments[:2] and not wrong_flag else ""
    if not building and "bake" not in arguments[:2]:
        solving = ""
    return f"ERROR: {building}{target}{solving}{message}"


def _is_lost() -> bool:
    """Whether the working directory was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def failure_annotations(error: ShiplineError) -> list[str]:
    """The lines for the CI system before the error box."""
    from shipline.observe import annotate  # only needed for failures

    return annotate(error, os.environ)


def _report_json(failure: BaseException, settings: ProgramSettings) -> int:
    from shipline.observe import failure_line

    if isinstance(failure, (Cancelled, click.Abort)) or is_interrupt(failure):
        click.echo(failure_line(failure, "cancelled", INTERRUPTED), err=True)
        return INTERRUPTED
    if isinstance(failure, click.ClickException):
        failure = _usage_error(failure)
    code, status = "bug", 1
    if isinstance(failure, ShiplineError):
        code, status = failure.code, failure.exit_code
    click.echo(failure_line(failure, code, status), err=True)
    if isinstance(failure, ShiplineError):
        _end_as_buildx(failure, settings, with_source=True)
    return status


def message_width() -> int | None:
    """The width of messages on a terminal; None elsewhere, because log lines are not wrapped."""
    if not sys.stderr.isatty():
        return None
    return min(shutil.get_terminal_size().columns, _MAX_WIDTH)


def explain(error: ShiplineError, again: str = "") -> str:
    """The error box, with the command that does it `again`."""
    from shipline.observe import can_encode, failure_box  # only needed for failures

    return failure_box(error, unicode=can_encode(sys.stderr), width=message_width(), again=again)


def _usage_error(failure: click.ClickException) -> UsageError:
    """An error of click as a UsageError."""
    message = failure.format_message()
    if is_buildx() and isinstance(failure, click.NoSuchOption):
        message = f"unknown flag: {failure.option_name}"
    elif is_buildx() and isinstance(failure, click.BadOptionUsage) and "requires" in message:
        message = f"flag needs an argument: {failure.option_name}"
    elif is_buildx() and isinstance(failure, click.exceptions.NoSuchCommand):
        message = f'unknown command: "{failure.command_name}"'
    error = UsageError(message, code="usage", hint=getattr(failure, "hint", ""))
    context = failure.ctx if isinstance(failure, click.UsageError) else None
    if context is not None and not error.hint:
        named = isinstance(context.command, click.Group)
        listed = "options" if isinstance(failure, click.NoSuchOption) or not named else "commands"
        error.hint = f"`{context.command_path} --help` lists the {listed}"
        error.add_note(" ".join(context.get_usage().split()))
    return error


def _traceback(failure: BaseException) -> None:
    import traceback

    click.echo("".join(traceback.format_exception(failure)).rstrip(), err=True)


def _discard_output() -> int:
    """Nothing takes it: discard further output, including that of interpreter exit."""
    discard = _open_discard()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(discard, stream.fileno())
    os.close(discard)
    return _BROKEN_PIPE


def _open_discard() -> int:
    """A descriptor that takes all that is written: without /dev/null, a file in memory."""
    try:
        return os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return os.memfd_create("discard")
