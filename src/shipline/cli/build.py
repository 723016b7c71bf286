"""`shipline build`: parse, call the engine, show the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from shipline.build import BuildRequest, check_request, parse_request
from shipline.build.metadata import result_facts
from shipline.cli import engine
from shipline.cli.build_options import IGNORED, NOT_YET, SwitchCommand, build_options
from shipline.cli.entry import is_buildx
from shipline.cli.environment import git_facts, git_labels, implied_build_args
from shipline.cli.failures import ProgramSettings, explain
from shipline.cli.interrupts import run_in_step
from shipline.cli.observing import (
    Observed,
    build_facts,
    build_name,
    image_facts,
    observed,
    size_facts,
)
from shipline.cli.results import (
    REPORTED,
    append_summary,
    fenced,
    job_summary,
    response_facts,
    warning_facts,
    write_report,
    write_response,
    write_result,
)
from shipline.errors import FlagConflict, ShiplineError, UsageError
from shipline.events import Attribute, Event, Finished, Step, Warned
from shipline.files import remove_whole, writing
from shipline.observe import RunReport, open_sinks
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build import BuildResult

T = TypeVar("T")


@click.command("build", cls=SwitchCommand)
@build_options
@click.argument("context", metavar="PATH | URL | -")
@click.pass_obj
def command(
    settings: ProgramSettings,
    /,
    context: str,
    progress: str,
    quiet: bool,
    builder: str | None,
    **given: Any,
) -> int:
    """Build an image from a Dockerfile, for every platform at once."""
    asked = click.get_current_context().get_parameter_source("progress")
    if quiet and asked is ParameterSource.COMMANDLINE and progress not in ("auto", "quiet"):
        raise FlagConflict(f"progress={progress} and quiet cannot be used together")
    settings.json_lines, settings.repeated = progress == "rawjson" and not quiet, True
    request = request_of(context, given, os.environ)
    _refuse_typed_input(request)
    mode = "quiet" if quiet else progress
    from shipline.builders.instances import other_builder

    name = other_builder(builder, os.environ)
    if request.call.method != "build":
        from shipline.cli.calls import call  # loads all of the Dockerfile language

        return call(request, open_sinks(mode, sys.stderr, os.environ), settings, name)
    _refuse_terminal(request)
    if name:
        request = replace(request, vcs=request.vcs or _vcs(request, context, os.environ))
        from shipline.cli.builders import build_on_builder

        response, warned = _build(
            request,
            mode,
            builder_facts(name, os.environ),
            lambda step: build_on_builder(name, {"": request}, step)[""],
            lambda run, made: run.step.note(**image_facts(response_facts(made))),
        )
        told = warning_facts(warned, os.environ)
        write_response(request, response, mode=mode, warnings=told)
        return 0
    request = loaded_for_docker(request, os.environ)
    engine.enter()
    result, warned = _build(
        request,
        mode,
        builder_facts("", os.environ),
        lambda step: engine.start({"": request}, step)[""],
        _keep,
    )
    note_native_build(request, result, os.environ)
    write_result(request, result, warnings=warning_facts(warned, os.environ), mode=mode)
    return 0


def request_of(context: str, given: Mapping[str, Any], environ: Mapping[str, str]) -> BuildRequest:
    """The request for flags and environment. Raises UsageError if it is wrong or impossible."""
    flags = dict(given)
    if flags["no_cache"] and flags["no_cache_filter"]:
        raise FlagConflict(
            "--no-cache and --no-cache-filter cannot currently be used together",
            hint="--no-cache is for all stages",
        )
    for name in NOT_YET:
        if flags.pop(name):
            raise UsageError(
                f"--{name.replace('_', '-')} is not supported yet", code="flag-not-supported"
            )
    for name in IGNORED:
        if flags.pop(name):
            click.echo(f"warning: --{name.replace('_', '-')} has no effect", err=True)
    older = flags.pop("print_")
    flags["call"] = "check" if flags.pop("check") else older or flags["call"]
    request = completed(parse_request(context, environ, **flags), context, environ)
    check_request(request)
    return request


def loaded_for_docker(request: BuildRequest, environ: Mapping[str, str]) -> BuildRequest:
    """The request of docker's plugin: without outputs, and with `type=image`, the result is loaded
    into docker's engine, as by the driver `docker`, unless it is pushed or this machine has no
    engine. Raises EngineError for a docker context that does not exist.
    """
    kept = [one.type == "image" and not (one.push or one.store) for one in request.outputs]
    if (kept and not any(kept)) or not loads_for_docker(environ):
        return request
    from shipline.build import Output

    loaded = (
        replace(one, type="docker") if keep else one
        for one, keep in zip(request.outputs, kept, strict=True)
    )
    return replace(request, outputs=tuple(loaded) or (Output("docker"),))


def loads_for_docker(environ: Mapping[str, str]) -> bool:
    """Whether this is docker's plugin, and results without another output are for its engine.
    Raises EngineError for a docker context that does not exist.
    """
    if not is_buildx():
        return False
    from shipline.builders.farm import loads_by_default
    from shipline.engines import has_docker

    return loads_by_default(environ) and has_docker(environ)


def builder_facts(name: str, environ: Mapping[str, str]) -> dict[str, Attribute]:
    """The builder as displays name it, as buildx does: none for this process under its own name.
    Raises UsageError for one that does not exist.
    """
    if name:
        from shipline.cli.builders import find_builder

        return {"builder": name, "driver": find_builder(name).driver}
    if not is_buildx():
        return {}
    from shipline.builders.instances import NATIVE

    return {"builder": NATIVE, "driver": "docker" if loads_for_docker(environ) else NATIVE}


def note_native_build(
    request: BuildRequest, result: BuildResult, environ: Mapping[str, str]
) -> None:
    """Called as buildx, note where the files of a build are, as buildx does."""
    if is_buildx():
        from shipline.builders.history import note_build

        note_build(request, result_facts(result)["buildx.build.ref"], environ)


def completed(request: BuildRequest, context: str, environ: Mapping[str, str]) -> BuildRequest:
    """The request with what the environment and the repository of its context add."""
    return replace(
        request,
        build_args=implied_build_args(environ) | {**request.build_args},
        labels=git_labels(environ, context, request.dockerfile) | {**request.labels},
        vcs=_vcs(request, context, environ) if request.provenance else {},
    )


def _vcs(request: BuildRequest, context: str, environ: Mapping[str, str]) -> dict[str, str]:
    named = {name: one.location for name, one in request.build_contexts.items() if one.is_local}
    return git_facts(environ, context, request.dockerfile, named)


def _keep(run: Observed, made: BuildResult) -> None:
    run.step.note(**image_facts(result_facts(made)), **size_facts(made))
    run.keep(made.documents)


def _build(
    request: BuildRequest,
    mode: str,
    builder: Mapping[str, Attribute],
    work: Callable[[Step], T],
    ended: Callable[[Observed, T], object],
) -> tuple[T, list[dict[str, Any]]]:
    if request.iidfile is not None:
        with writing(request.iidfile):  # a failed build must not leave an older ID
            remove_whole(request.iidfile)
    name, facts = build_name(request), {**build_facts(request), **builder}
    return shown("build", work, mode, name=name, facts=facts, ended=ended)


def shown(
    kind: str,
    work: Callable[[Step], T],
    mode: str,
    *,
    name: str = "",
    facts: Mapping[str, Attribute] | None = None,
    ended: Callable[[Observed, T], object] = lambda run, found: None,
) -> tuple[T, list[dict[str, Any]]]:
    """The result of `work`, whose progress is shown and kept, and its warnings, as buildx writes
    them; a signal cancels it. `name` and `facts` are those of `observed`. `ended` is called with
    what `work` returned while the run is still open.
    """
    sinks = open_sinks(mode, sys.stderr, os.environ)
    report = RunReport()
    warned: list[dict[str, Any]] = []
    references: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Finished) and (made := event.attributes.get("reference")):
            references.append(str(made))
        if isinstance(event, Warned) and event.more:  # of a file, not of the options
            from shipline.observe import warning_json  # rarely needed

            found = warning_json(event)
            if not any({**found, "vertex": ""} == {**one, "vertex": ""} for one in warned):
                warned.append(found)

    try:
        with observed(kind, name, sinks=(*sinks, note, report), facts=facts) as run:
            found = run_in_step(lambda: work(run.step), run.step)
            ended(run, found)
    except ShiplineError as error:
        if name and (place := job_summary(os.environ)):
            append_summary(place, f"## {kind} {name}: failed\n\n{fenced(explain(error))}\n\n")
        _show_links(references, mode, os.environ)
        raise
    if name and mode in REPORTED:
        write_report(f"{kind} {name}", report, os.environ)
    _show_links(references, mode, os.environ)
    return found, warned


def _show_links(references: Sequence[str], mode: str, environ: Mapping[str, str]) -> None:
    """Called as buildx, where Docker Desktop shows builds: the links to those of its builders."""
    if not references or not is_buildx() or mode not in REPORTED:
        return
    home = Path(environ.get("HOME") or Path.home())
    if (home / ".docker/desktop-build/.lastaccess").exists():
        links = [f"docker-desktop://dashboard/build/{one}" for one in references]
        before = "\n  " if len(links) > 1 else ""
        shown = "".join(f"{before}{one}" for one in links)
        click.echo(f"\nView build details: {shown}", err=True)


def _refuse_typed_input(request: BuildRequest) -> None:
    if request.reads_stdin and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError(
            "standard input is a terminal, and the build is to read it",
            code="standard-input",
            hint="redirect it: shipline build - < Dockerfile, or tar c . | shipline build -",
        )


def _refuse_terminal(request: BuildRequest) -> None:
    if sys.stdout.isatty() and any(output.destination == "-" for output in request.outputs):
        raise UsageError(
            "--output: a tar archive cannot be written to a terminal",
            code="output-terminal",
            hint="redirect standard output, or give dest=FILE",
        )
