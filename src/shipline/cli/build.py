"""`shipline build`: parse, call the engine, show the result."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from shipline.build import BuildRequest, values
from shipline.cli import engine
from shipline.cli.build_options import IGNORED, build_options
from shipline.cli.failures import Settings
from shipline.cli.interrupts import run_cancellable
from shipline.cli.requests import build_request
from shipline.cli.results import write_result
from shipline.cli.switches import SwitchCommand
from shipline.errors import UsageError
from shipline.events import Event, Stream, Warned
from shipline.observe import open_sinks, warning_json

if TYPE_CHECKING:
    from shipline.build import BuildResult

_NOT_YET = ("policy", "invoke", "on")  # flags without a place in BuildRequest


@click.command("build", cls=SwitchCommand)
@build_options
@click.argument("context", metavar="PATH | URL | -")
@click.pass_obj
def command(settings: Settings, /, **given: Any) -> int:
    """Build an image from a Dockerfile, for every platform at once."""
    settings.json_lines = given["progress"] == "rawjson" and not given["quiet"]
    _refuse_flags(given)
    request = build_request(given, os.environ)
    mode = "quiet" if given["quiet"] else given["progress"]
    if request.call.method == "check":
        from shipline.cli.checks import check  # loads all of the Dockerfile language

        return check(request, open_sinks(mode, sys.stderr, os.environ), settings)
    _refuse_terminal(request)
    engine.enter()
    warned: list[dict[str, Any]] = []
    result = _build(request, mode, warned)
    asked = os.environ.get("BUILDX_METADATA_WARNINGS", "")
    shown = warned if asked and values.parse_boolean(asked, "BUILDX_METADATA_WARNINGS") else None
    write_result(request, result, warnings=shown, mode=mode)
    return 0


def _build(request: BuildRequest, mode: str, warned: list[dict[str, Any]]) -> BuildResult:
    """Warnings are added to `warned`, as buildx writes them."""
    if request.iidfile is not None:
        request.iidfile.unlink(missing_ok=True)  # a failed build must not leave an older ID
    sinks = open_sinks(mode, sys.stderr, os.environ)

    def note(event: Event) -> None:
        if isinstance(event, Warned):
            warned.append(warning_json(event))

    stream = Stream(*sinks, note)
    try:
        with stream, stream.step("build") as step:
            return run_cancellable(
                lambda: engine.start(request, step),
                lambda: step.warn("cancelling", "interrupt once more to exit at once"),
            )
    finally:
        for failure in stream.failures:
            click.echo(f"warning: the progress display failed: {failure!r}", err=True)


def _refuse_flags(given: dict[str, Any]) -> None:
    for name in _NOT_YET:
        if given[name]:
            raise UsageError(f"--{name} is not supported yet")
    if given["builder"] not in (None, "", "default"):
        raise UsageError(
            f"--builder: there is no builder {given['builder']!r}",
            hint="builds run in this process; leave --builder and BUILDX_BUILDER out",
        )
    for name in IGNORED:
        if given[name]:
            click.echo(f"warning: --{name.replace('_', '-')} has no effect", err=True)


def _refuse_terminal(request: BuildRequest) -> None:
    if sys.stdout.isatty() and any(one.destination == "-" for one in request.outputs):
        raise UsageError(
            "--output: a tar archive does not belong on a terminal",
            hint="redirect standard output, or give dest=FILE",
        )
