"""The build cache, `shipline du` and `prune`; emulators; the group of the commands of builders.

Flags, columns and filters are those of `docker buildx du` and `docker buildx prune`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from shipline.build import parse_platforms
from shipline.cli import engine
from shipline.cli.options import builder_option
from shipline.cli.program import LazyCommand, LazyGroup
from shipline.cli.tables import line, table
from shipline.errors import FlagConflict, InvalidFlag, SandboxError
from shipline.regular_expressions import compiled
from shipline.units import ByteSize, Duration, go_size, parse_boolean

if TYPE_CHECKING:
    from shipline.build.disk import CacheRecord, PruneLimits


COMMANDS = (
    LazyCommand("create", "builders:create", "Create a builder, or add a node."),
    LazyCommand("use", "builders:use_command", "Choose the builder for builds."),
    LazyCommand("ls", "builder_list:ls", "List builders and their nodes."),
    LazyCommand("inspect", "builder_list:inspect", "Show a builder, or start it."),
    LazyCommand("stop", "builders:stop", "Stop the daemons of a builder."),
    LazyCommand("rm", "builders:rm", "Remove builders."),
    LazyCommand("install", "builders:install", "Have `docker build` call buildx."),
    LazyCommand("uninstall", "builders:uninstall", "Undo `install`."),
    LazyCommand("bootstrap", "builder:bootstrap", "Register emulators."),
    LazyCommand("dial-stdio", "serve_stdio:dial_stdio", "Connect a program to a builder."),
    LazyCommand("serve-stdio", "serve_stdio:serve_stdio", "Build for another machine."),
    LazyCommand("du", "builder:du", "Show the size of the build cache."),
    LazyCommand("prune", "builder:prune_command", "Remove build cache."),
)


@click.group("builder", cls=LazyGroup, sections={"Commands": COMMANDS})
def group() -> None:
    """Choose what builds: this machine, or BuildKit in an engine or elsewhere."""


@click.command("bootstrap")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Platforms to emulate, comma-separated; default all with an installed emulator.",
)
def bootstrap(platforms: Sequence[str]) -> None:
    """Register emulators for other architectures, once, as root.

    Prints the platforms that run now, and how to undo the registration. Builds by root register
    what they need themselves.
    """
    from shipline.sandbox import emulators, register, supported_platforms

    if os.geteuid() != 0:
        raise SandboxError(
            "only root can register emulators",
            code="root-needed",
            hint="run it as root; builds without root register emulators in their own namespace",
        )
    undo = [register(platform) for platform in parse_platforms(platforms) or emulators()]
    for platform in supported_platforms():
        click.echo(str(platform))
    for command in filter(None, undo):
        click.echo(f"registered; to undo it: {command}", err=True)


_HEADS = ("ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED")
_TITLES = {
    "ID": "ID",
    "Parents": "PARENTS",
    "CreatedAt": "CREATED AT",
    "Mutable": "MUTABLE",
    "Reclaimable": "RECLAIMABLE",
    "Shared": "SHARED",
    "Size": "SIZE",
    "Description": "DESCRIPTION",
    "LastUsedAt": "LAST ACCESSED",
    "Type": "TYPE",
}
_FLAGS: dict[str, Callable[[CacheRecord], bool]] = {
    "inuse": lambda record: record.in_use,
    "mutable": lambda record: record.mutable,
    "immutable": lambda record: not record.mutable,
    "shared": lambda record: record.shared,
    "private": lambda record: not record.shared,
}
_TEXTS: dict[str, Callable[[CacheRecord], str]] = {
    "id": lambda record: record.id,
    "type": lambda record: record.type,
    "description": lambda record: record.description,
    "parents": lambda record: "",
}
_AGES = ("until", "unused-for")
_SPANS = (
    (172_800, 3600, "hours"),
    (1_209_600, 86_400, "days"),
    (5_184_000, 604_800, "weeks"),
    (63_072_000, 2_592_000, "months"),
    (float("inf"), 31_536_000, "years"),
)
"""Less than the first, counted in the second, in seconds."""

_filters = click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"Only records for which all filters hold: {', '.join((*_TEXTS, *_FLAGS, *_AGES))};"
    " with = , != or ~= (a regular expression).",
)


NAMED_BUILDER = builder_option("The builder that is meant.")


def _seconds(context: click.Context, parameter: click.Parameter, text: str) -> float:
    try:
        return Duration.parse(text).seconds
    except ValueError as error:
        raise InvalidFlag(f"--timeout: {error}") from None


timeout_option = click.option(
    "--timeout",
    "timeout_s",
    default="20s",
    metavar="SPAN",
    callback=_seconds,
    help="How long a builder may take to answer, as 20s or 1m30s.",
)


@click.command("du")
@_filters
@click.option("--format", "template", help="table, pretty, json, a Go template, or table and one.")
@click.option("--verbose", is_flag=True, help="Shorthand for --format=pretty.")
@NAMED_BUILDER
@timeout_option
def du(
    filters: Sequence[str],
    template: str | None,
    verbose: bool,
    builder: str | None,
    timeout_s: float,
) -> None:
    """Show what the build cache takes of the disk.

    Blobs and unpacked files of a layer are records of their own. An ID with * is of a record that
    changes while it is used. Records of runs are shown for --filter type=internal.
    """
    from shipline.build.disk import is_cache

    if verbose and template:
        raise FlagConflict("--format and --verbose cannot be used together")
    chosen = _chosen(filters)
    found = [record for record in _scan(builder, timeout_s) if chosen(record)]
    records = found if filters else [record for record in found if is_cache(record)]
    template = template or ("pretty" if verbose else "table")
    if template in ("table", "pretty"):
        click.echo(_table(records) if template == "table" else _pretty(records), nl=False)
        if not filters:
            click.echo(_summary(records), nl=False)
        return
    rows = map(_values, records)
    if template.startswith("table "):
        click.echo(table(template.removeprefix("table "), _TITLES, rows), nl=False)
        return
    for row in rows:
        click.echo(json.dumps(row) if template == "json" else line(template, row))


@click.command("prune")
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Include internal records, as those of runs."
)
@_filters
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@click.option("--max-used-space", help="Remove until the cache has at most this size.")
@click.option("--min-free-space", help="Remove until this much disk space is free.")
@click.option("--reserved-space", help="Always keep this much of the cache.")
@click.option("--keep-storage", hidden=True)
@click.option("--verbose", is_flag=True, help="Show the removed records in detail.")
@NAMED_BUILDER
@timeout_option
def prune_command(
    everything: bool,
    filters: Sequence[str],
    force: bool,
    max_used_space: str | None,
    min_free_space: str | None,
    reserved_space: str | None,
    keep_storage: str | None,
    verbose: bool,
    builder: str | None,
    timeout_s: float,
) -> int:
    """Remove build cache, the least recently used first; what running builds use stays."""
    from shipline.build.disk import PruneLimits, total

    chosen = _chosen(filters)
    limits = PruneLimits(
        max_used=_bytes("--max-used-space", max_used_space),
        min_free=_bytes("--min-free-space", min_free_space),
        reserved=_bytes("--reserved-space", reserved_space or keep_storage),
    )
    if not force and not confirmed("WARNING! This will remove all build cache that is not in use."):
        return 0
    removed: list[CacheRecord] = []
    for record in _prune(builder, timeout_s, limits, chosen if filters else None, everything):
        if verbose:
            click.echo(_pretty([record]), nl=False)
        else:
            if not removed:
                click.echo(_row(_HEADS))
            click.echo(_row(_columns(record)))
        removed.append(record)
    click.echo(f"Total:\t{go_size(total(removed))}")
    return 0


def _scan(builder: str | None, timeout_s: float) -> list[CacheRecord]:
    from shipline.builders.instances import other_builder
    from shipline.cli.builders import open_nodes

    if name := other_builder(builder, os.environ):
        from shipline.builders import disk

        with open_nodes(name, timeout_s) as controls:
            return [record for control in controls for record in disk.scan(control)]
    from shipline.api import state_directory
    from shipline.build.disk import scan
    from shipline.build.faults import system_errors

    engine.enter()
    with system_errors(state_directory()):
        return list(scan(state_directory()))


def _prune(
    builder: str | None,
    timeout_s: float,
    limits: PruneLimits,
    chosen: Callable[[CacheRecord], bool] | None,
    everything: bool,
) -> Iterator[CacheRecord]:
    from shipline.builders.instances import other_builder
    from shipline.cli.builders import open_nodes

    if name := other_builder(builder, os.environ):
        from shipline.builders import disk

        with open_nodes(name, timeout_s) as controls:
            for control in controls:
                yield from disk.prune(control, limits, chosen, everything=everything)
        return
    from shipline.api import state_directory
    from shipline.build.disk import is_cache, prune
    from shipline.build.faults import system_errors

    engine.enter()
    with system_errors(state_directory()):
        is_chosen = chosen or (lambda record: everything or is_cache(record))
        yield from prune(state_directory(), limits, is_chosen)


def human_duration(seconds: float) -> str:
    """A span of time as docker shows it: `About an hour`, `2 days`."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    if seconds < 3600:
        minutes = int(seconds // 60)
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if round(seconds / 3600) == 1:
        return "About an hour"
    length, name = next((length, name) for most, length, name in _SPANS if seconds < most)
    return f"{int(seconds // length)} {name}"


def _chosen(filters: Iterable[str]) -> Callable[[CacheRecord], bool]:
    tests = [_test(text) for text in filters]
    return lambda record: all(test(record) for test in tests)


def _test(text: str) -> Callable[[CacheRecord], bool]:
    match = re.fullmatch(r"([a-z-]+)(!=|~=|=)(.*)", text, re.DOTALL)
    if match is None:
        raise InvalidFlag(f"--filter: {text!r} is not NAME=VALUE")
    name, operator, value = match.groups()
    if name in _AGES and operator == "=":
        try:
            age = Duration.parse(value).seconds
        except ValueError as error:
            raise InvalidFlag(f"--filter {name}: {error}") from None
        return lambda record: time.time() - record.last_used >= age
    if name in _FLAGS and operator != "~=":
        if (wanted := parse_boolean(value)) is None:
            raise InvalidFlag(f"--filter {name}: {value!r} is neither true nor false")
        expected = wanted == (operator == "=")
        return lambda record: _FLAGS[name](record) == expected
    if name not in _TEXTS:
        names = ", ".join((*_TEXTS, *_FLAGS, *_AGES))
        raise InvalidFlag(f"--filter: there is no {name!r}{operator}", hint=f"filters are {names}")
    if operator == "~=":
        try:
            pattern = compiled(value)
        except ValueError as error:
            raise InvalidFlag(f"--filter {name}: {value!r} is not a pattern: {error}") from None
        return lambda record: pattern.search(_TEXTS[name](record)) is not None
    return lambda record: (_TEXTS[name](record) == value) == (operator == "=")


def _bytes(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return ByteSize.parse(text).bytes
    except ValueError as error:
        raise InvalidFlag(f"{flag}: {error}") from None


def confirmed(warning: str) -> bool:
    """Whether the user, asked on the terminal, agrees."""
    click.echo(f"{warning}\nAre you sure you want to continue? [y/N] ", nl=False)
    answer = sys.stdin.readline().strip().lower()
    if not sys.stdin.isatty():
        click.echo()
    return answer in ("y", "yes")


def _columns(record: CacheRecord) -> tuple[str, ...]:
    identity = record.id + ("*" if record.mutable else "")
    return identity, _truth(not record.in_use), go_size(record.size), _ago(record.last_used)


def _row(columns: Sequence[str]) -> str:
    widths = (29, 14, 11, 0)
    return "".join(text.ljust(width) for text, width in zip(columns, widths, strict=True)).rstrip()


def _table(records: Iterable[CacheRecord]) -> str:
    return "".join(f"{_row(row)}\n" for row in (_HEADS, *map(_columns, records)))


def _pretty(records: Iterable[CacheRecord]) -> str:
    return "".join(
        f"ID:           {record.id}\n"
        f"Created at:   {_at(record.created)}\n"
        f"Mutable:      {_truth(record.mutable)}\n"
        f"Reclaimable:  {_truth(not record.in_use)}\n"
        f"Shared:       {_truth(record.shared)}\n"
        f"Size:         {go_size(record.size)}\n"
        f"Description:  {record.description}\n"
        f"Last used:    {_ago(record.last_used)}\n"
        f"Type:         {record.type}\n\n"
        for record in records
    )


def _summary(records: Sequence[CacheRecord]) -> str:
    from shipline.build.disk import total

    free = total(record for record in records if not record.in_use)
    return f"Reclaimable:\t{go_size(free)}\nTotal:\t\t{go_size(total(records))}\n"


def _values(record: CacheRecord) -> dict[str, object]:
    """The fields that buildx has; how often a record was used is not counted."""
    return {
        "CreatedAt": _at(record.created),
        "Description": record.description,
        "ID": record.id,
        "LastUsedAt": _ago(record.last_used),
        "Mutable": record.mutable,
        "Parents": None,
        "Reclaimable": not record.in_use,
        "Shared": record.shared,
        "Size": go_size(record.size),
        "Type": record.type,
    }


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _ago(moment: float) -> str:
    return f"{human_duration(max(0.0, time.time() - moment))} ago"


def _at(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S.%f} +0000 UTC"
