"""`shipline history`: earlier runs, with the meaning of `docker buildx history`.

A run is named by its id, the beginning or end of it, the reference of its build, or `^1` for the
run before the last; by default the last is meant. Source: docker/buildx, commands/history.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct, to_builtins

from shipline.cli.completing import runs as complete_runs
from shipline.cli.history_filters import is_local, parse_filter, status_of
from shipline.cli.program import CommandGroup
from shipline.cli.tables import line, table
from shipline.errors import FlagConflict, InvalidFlag, MissingFlag, NotFound, UsageError
from shipline.files import open_whole, reading, writing
from shipline.history import RunHistory, RunState, RunSummary
from shipline.home import state_directory
from shipline.units import rfc3339
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.events import Event
    from shipline.history import ImageDocument, RunDetail

_TABLE = r"{{.Ref}}\t{{.Name}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Duration}}"
_HEADS = {
    "Ref": "BUILD ID",
    "Name": "NAME",
    "Status": "STATUS",
    "CreatedAt": "CREATED AT",
    "Duration": "DURATION",
    "Link": "",
    "Kind": "KIND",
}
_NAME_WIDTH = 36
run_argument = click.argument("run", default="", metavar="[REF]", shell_complete=complete_runs)


@click.group("history", cls=CommandGroup)
def group() -> None:
    """Show earlier runs of build, bake and ship.

    REF is an id, its beginning or end, or ^1 for the run before the last; by default the last run.
    """


@group.command("ls")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Only runs for which all filters hold, as status=error or duration>1m.",
)
@click.option("--format", "template", default="table", help="table, json, or a Go template.")
@click.option("--local", is_flag=True, help="Only runs of the repository in this directory.")
@click.option("--no-trunc", "whole", is_flag=True, help="Show whole names.")
def listing(filters: Sequence[str], template: str, local: bool, whole: bool) -> None:
    """List runs, running ones first, then the newest."""
    tests = [*map(parse_filter, filters), *([is_local()] if local else [])]
    runs = [run for run in RunHistory(state_directory()).ls() if all(one(run) for one in tests)]
    runs.sort(key=lambda run: run.state is not RunState.RUNNING)
    now = time.time()
    if template == "json":
        for run in runs:
            click.echo(json.dumps(_row_json(run)))
        return
    shown = template == "table" or template.startswith("table ")
    rows = [_row(run, now, short=shown and not whole) for run in runs]
    if shown:
        own = template.partition(" ")[2]
        click.echo(table(own or _TABLE, _HEADS, rows), nl=False)
        return
    for row in rows:
        click.echo(line(template, row))


class _Inspect(CommandGroup):
    """`inspect [REF]`, which has a command of its own, `attachment`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "run", self.commands["run"], args


@group.group("inspect", cls=_Inspect, invoke_without_command=True)
@click.option("--format", "template", default="pretty", help="pretty, json, or a Go template.")
@click.pass_context
def inspect(context: click.Context, template: str) -> None:
    """Show a run: what it built from what, how long it took, and how it ended."""
    context.obj = template
    if context.invoked_subcommand is None:
        context.invoke(inspect_run)


@inspect.command("run", hidden=True)
@run_argument
@click.option("--format", "own", hidden=True)
@click.pass_obj
def inspect_run(template: str, run: str = "", own: str | None = None) -> None:
    """Show a run."""
    from shipline.cli.template_functions import go_json

    template = own or template
    history = RunHistory(state_directory())
    found = history.resolve(run)
    detail, documents = history.read(found), [*history.documents(found)]
    if template == "pretty":
        click.echo(_pretty(detail, documents, named=bool(run)), nl=False)
        return
    facts = inspect_json(detail, documents)
    click.echo(go_json(facts) if template == "json" else line(template, facts))


@inspect.command("attachment")
@run_argument
@click.argument("digest", default="")
@click.option("--type", "kind", default="", help="index, manifest, image, provenance or sbom.")
@click.option("--platform", default="", metavar="OS/ARCH", help="That of the image.")
def attachment(run: str, digest: str, kind: str, platform: str) -> None:
    """Print a document of the image that a run made: an index, a manifest, a configuration, or a
    statement about it.
    """
    if not (digest or kind or platform):
        raise MissingFlag("nothing is chosen", hint="pass --type, --platform or a DIGEST")
    history = RunHistory(state_directory())
    found = history.resolve(run)
    for one in history.documents(found):
        if digest and one.digest != digest:
            continue
        if (kind and kind not in (one.word, one.type)) or (platform and one.platform != platform):
            continue
        click.echo(one.data, nl=False)
        return
    raise NotFound(
        f"{found} has no such document",
        code="not-found",
        hint=f"shipline history inspect {found} lists them",
    )


@group.command("logs")
@run_argument
@click.option(
    "--progress",
    "mode",
    type=click.Choice(["plain", "rawjson", "tty"]),
    default="plain",
    show_default=True,
    help="How it is shown.",
)
def logs(run: str, mode: str) -> None:
    """Print the log of a run: each step once, with its output in one piece."""
    from shipline.history import unmixed
    from shipline.observe import JsonSink, LinesSink, TtySink

    history = RunHistory(state_directory())
    events = unmixed(history.events(history.resolve(run)))
    if mode == "tty" and not sys.stdout.isatty():
        raise UsageError(
            "--progress=tty: standard output is not a terminal",
            code="terminal-needed",
            hint="use plain",
        )
    if mode == "tty":
        _replay(events, TtySink(sys.stdout))
    else:
        _replay(events, JsonSink(sys.stdout) if mode == "rawjson" else LinesSink(sys.stdout))


def _replay(events: Iterable[Event], sink: Callable[[Event], object]) -> None:
    for event in events:
        sink(event)
    getattr(sink, "close", lambda: None)()


@group.command("export")
@click.argument("runs", nargs=-1, metavar="[REF]...", shell_complete=complete_runs)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="The file to write."
)
@click.option("--all", "everything", is_flag=True, help="Export all runs that have ended.")
@click.option("--finalize", is_flag=True, hidden=True)
def export(runs: Sequence[str], output: Path | None, everything: bool, finalize: bool) -> None:
    """Write runs as a bundle of build records, by default the last one that has ended.

    `history import` reads it, and so does Docker Desktop.
    """
    from shipline.builders.bundles import write_bundle

    if runs and everything:
        raise FlagConflict("--all goes with no run")
    history = RunHistory(state_directory())
    ended = (one.id for one in history.ls() if one.state is not RunState.RUNNING)
    chosen = [history.resolve(name) for name in runs] or [
        *(ended if everything else islice(ended, 1))
    ]
    if not chosen:
        raise UsageError(
            "there are no runs yet", code="run-unknown", hint="`shipline build` records one"
        )
    if output is None and sys.stdout.isatty():
        raise UsageError(
            "a bundle cannot be written to a terminal",
            code="terminal-needed",
            hint="name a file with -o",
        )
    if output is None:
        write_bundle(history, chosen, sys.stdout.buffer)
        return
    with writing(output), open_whole(output) as file:
        write_bundle(history, chosen, file)


@group.command("import")
@click.argument("source", required=False, metavar="[-]")
@click.option("-f", "--file", "files", multiple=True, metavar="PATH", help="A bundle; - for stdin.")
def import_command(source: str | None, files: Sequence[str]) -> None:
    """Add the runs of a bundle: of `history export`, or of `docker buildx history export`."""
    from shipline.builders.bundles import read_bundle

    if source not in (None, "-"):
        raise InvalidFlag(f"{source!r} is not understood", hint="name files with -f")
    history = RunHistory(state_directory())
    for name in files or ("-",):
        with reading(name), sys.stdin.buffer if name == "-" else open(name, "rb") as file:
            found = read_bundle(history, file)
        for run in found:
            click.echo(run)


@group.command("trace")
@run_argument
@click.option("--addr", default="127.0.0.1:0", show_default=True, help="Where pages are served.")
@click.option("--compare", metavar="REF", help="Say what differs from another run.")
@click.pass_context
def trace(context: click.Context, run: str, addr: str, compare: str | None) -> None:
    """Show how the steps of a run followed each other.

    On a terminal this opens the page of the run; else it prints the trace in Jaeger's JSON.
    """
    from shipline.history import jaeger_trace

    history = RunHistory(state_directory())
    found = history.resolve(run)
    if compare:
        from shipline.cli.why import command

        context.invoke(command, run=found, other=compare)
    elif sys.stdout.isatty():
        _open(found, addr)
    else:
        document = jaeger_trace(history.summary(found), history.events(found))
        click.echo(json.dumps(document, indent=2))


@group.command("open")
@run_argument
def open_command(run: str) -> None:
    """Open the page of a run, as `shipline ui` shows it, until interrupted."""
    _open(RunHistory(state_directory()).resolve(run), "127.0.0.1:0")


def _open(run: str, address: str) -> None:
    from shipline.cli.ui import serve_pages

    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise InvalidFlag(f"--addr: {address!r} is not an address", hint="write 127.0.0.1:0")
    serve_pages(host.strip("[]") or "127.0.0.1", int(port), no_open=False, path=f"/runs/{run}")


@group.command("rm")
@click.argument("runs", nargs=-1, metavar="[REF]...", shell_complete=complete_runs)
@click.option("--all", "everything", is_flag=True, help="Remove all runs that have ended.")
def remove(runs: Sequence[str], everything: bool) -> None:
    """Remove runs."""
    if bool(runs) == everything:
        raise MissingFlag("name runs, or pass --all")
    history = RunHistory(state_directory())
    chosen = history.ids() if everything else [history.resolve(name) for name in runs]
    for run in chosen:
        if everything and history.alive(run):
            continue
        history.remove(run)
        click.echo(run)


# lists


def _row(run: RunSummary, now: float, *, short: bool) -> dict[str, Any]:
    from shipline.cli.builder import human_duration

    name = run.name
    if short and len(name) > _NAME_WIDTH:
        name = f"..{name[2 - _NAME_WIDTH :]}"
    return {
        "Ref": run.id,
        "Name": name,
        "Status": status_of(run).capitalize(),
        "CreatedAt": f"{human_duration(now - run.started)} ago",
        "Duration": shown_duration(_lasted_s(run, now)) + ("" if run.finished else "+"),
        "Link": "",
        "Kind": run.kind,
    }


def _row_json(run: RunSummary) -> dict[str, Any]:
    found = {
        "cached_steps": run.cached,
        "completed_steps": run.done,
        "created_at": rfc3339(run.started, "auto"),
        "kind": run.kind,
        "name": run.name,
        "ref": run.ref or run.id,
        "status": status_of(run).capitalize(),
        "total_steps": run.total,
    }
    return {**found, "completed_at": rfc3339(run.finished, "auto")} if run.finished else found


def shown_duration(seconds: float) -> str:
    """`12.3s`, `1m  5s`."""
    whole = int(seconds)
    return f"{seconds:.1f}s" if seconds < 60 else f"{whole // 60}m {whole % 60:2}s"


# one run


def inspect_json(run: RunDetail, documents: Iterable[ImageDocument]) -> dict[str, Any]:
    """A run in the fields of `docker buildx history inspect --format json`."""
    summary, facts = run.summary, run.facts
    found: dict[str, Any] = {
        "Name": summary.name,
        "Ref": _ref(summary),
        "Kind": summary.kind,
        "Context": summary.root,
        "Dockerfile": facts.get("dockerfile", ""),
        "VCSRepository": summary.source,
        "VCSRevision": summary.commit,
        "Target": facts.get("target", ""),
        "Platform": [*summary.platforms],
        "StartedAt": rfc3339(summary.started, "auto"),
        "CompletedAt": rfc3339(summary.finished, "auto") if summary.finished else "",
        "Duration": int(_lasted_s(summary, time.time()) * 1e9),
        "Status": _INSPECTED.get(summary.state, summary.state.value),
        "Error": to_builtins(_failure(run)),
        "Names": [*summary.names],
        "Digest": summary.digest,
        "NumCompletedSteps": summary.done,
        "NumTotalSteps": summary.total,
        "NumCachedSteps": summary.cached,
        "Materials": [{"URI": uri, "Digests": digests} for uri, digests in _materials(run)],
        "Attachments": [
            {"Digest": one.digest, "Platform": one.platform, "Type": one.type} for one in documents
        ],
    }
    always = ("NumCompletedSteps", "NumTotalSteps", "NumCachedSteps")
    return {name: value for name, value in found.items() if value or name in always}


_INSPECTED = {
    RunState.PASSED: "completed",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "canceled",
}


class _Failure(Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Why a run failed; of the last step that failed its name, place and the end of its log."""

    message: str = ""
    hint: str = ""
    explanation: str = ""
    place: str = ""
    name: str = ""
    logs: tuple[str, ...] | None = None


def _failure(run: RunDetail) -> _Failure:
    summary = run.summary
    if not summary.error or summary.state is RunState.CANCELLED:
        return _Failure()
    explanation = f"shipline explain {summary.code}" if summary.code else ""
    failure = _Failure(summary.error, summary.hint, explanation)
    failed = next((one for one in run.steps[::-1] if one.error), None)
    if failed is None:
        return failure
    log = b"".join(one.data for one in run.log(failed.span)).decode(errors="replace").splitlines()
    place = f"{failed.file or 'Dockerfile'}:{failed.line}" if failed.line else ""
    return replace(failure, place=place, name=failed.name, logs=tuple(log[-20:]))


def _pretty(run: RunDetail, documents: Iterable[ImageDocument], *, named: bool) -> str:
    from shipline.cli.tables import columns
    from shipline.observe import clean

    summary, facts, failure = run.summary, run.facts, _failure(run)
    heads = {
        "Name": summary.name,
        "Ref": "" if named else _ref(summary),
        "Context": summary.root,
        "Dockerfile": str(facts.get("dockerfile", "")),
        "VCS Repository": summary.source,
        "VCS Revision": summary.commit,
        "Target": str(facts.get("target", "")),
        "Platforms": ", ".join(summary.platforms),
        "Names": ", ".join(summary.names),
        "Digest": summary.digest,
    }
    state = _INSPECTED.get(summary.state, summary.state.value)
    running = " (running)" if summary.state is RunState.RUNNING else ""
    cached = round(100 * summary.cached / max(summary.total, 1))
    ends = {
        "Started": f"{datetime.fromtimestamp(summary.started):%Y-%m-%d %H:%M:%S}",
        "Duration": shown_duration(_lasted_s(summary, time.time())) + running,
        "Error": failure.message.partition("\n")[0],
        "Hint": failure.hint,
        "Explanation": failure.explanation,
        "Status": "" if state in ("completed", "running", "failed") else state.capitalize(),
        "Build Steps": f"{summary.done}/{summary.total} ({cached}% cached)",
    }
    parts = [_fields(heads), _fields(ends)]
    if rows := [(uri, ", ".join(digests)) for uri, digests in _materials(run)]:
        parts.append("Materials:\n" + columns([("URI", "DIGEST"), *rows], 3))
    if rows3 := [(one.digest, one.platform, one.type) for one in documents]:
        parts.append("Attachments:\n" + columns([("DIGEST", "PLATFORM", "TYPE"), *rows3], 3))
    if failure.name:
        log = "".join(f"> {clean(one)}\n" for one in failure.logs or ())
        parts.append(f"Error: {failure.name}{failure.place and f' ({failure.place})'}\n{log}")
    return "\n".join(parts)


def _fields(values: dict[str, str]) -> str:
    from shipline.cli.tables import columns

    return columns([(f"{name}:", value) for name, value in values.items() if value], 1)


def _ref(run: RunSummary) -> str:
    return run.ref.rpartition("/")[2] or run.id


def _lasted_s(run: RunSummary, now: float) -> float:
    """Until `now` if it is running; 0 if its end is not known."""
    end = run.finished or (now if run.state is RunState.RUNNING else run.started)
    return end - run.started


def _materials(run: RunDetail) -> list[tuple[str, list[str]]]:
    """What was fetched: each URI with its digests."""
    return [
        (one["uri"], [f"{kind}:{value}" for kind, value in one["digest"].items()])
        for one in run.materials
    ]
