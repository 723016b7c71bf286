"""`shipline registry gc`, `check`, `repair` and `convert`: care for a data directory."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.registry_directory import local_actor, tell_audit
from shipline.cli.registry_node import done_by, node_option
from shipline.errors import ContentError, UsageError
from shipline.units import shown_size

if TYPE_CHECKING:
    from shipline.server.check import Summary
    from shipline.server.collection import Report
    from shipline.server.findings import Finding
    from shipline.units import Duration

_EVERY_S = 0.2  # between two lines of progress


def _span(context: click.Context, parameter: click.Parameter, value: str | None) -> Duration | None:
    """A time span such as 90s, 5m, 1h30m; 0 is none at all."""
    from shipline.units import Duration

    if value is None:
        return None
    try:
        return Duration(0) if value == "0" else Duration.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _directory(function: Callable[..., None]) -> Callable[..., None]:
    kind = click.Path(path_type=Path, file_okay=False)
    return click.argument("data", type=kind, metavar="DIR")(function)


@click.command("gc")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The data directory, which no node serves meanwhile.",
)
@node_option
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@click.option("--untagged", is_flag=True, help="Also manifests that no tag leads to.")
@click.option(
    "--grace",
    callback=_span,
    metavar="TIME",
    help="Leave what was pushed within this time; default 1h, or what the node is configured with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gc(
    data: Path | None,
    node: str | None,
    dry_run: bool,
    untagged: bool,
    grace: Duration | None,
    as_json: bool,
) -> None:
    """Free what nothing needs, now. A node does this by itself from time to time."""
    from shipline.server.collection import Report

    if (data is None) == (node is None):
        raise UsageError("free what?", hint="say either --data DIR or --node HOST")
    if data is not None:
        report = _collected(data, dry_run, untagged, grace)
    else:
        span = None if grace is None else str(grace) or "0"
        wish = {"dry_run": dry_run, "untagged": untagged or None, "grace": span}
        wanted = {name: value for name, value in wish.items() if value is not None}
        report = Report(**done_by(str(node), "/api/gc", wanted))
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    would = "would free" if dry_run else "freed"
    click.echo(
        f"{would} {shown_size(report.bytes)} in {report.files} files "
        f"({report.manifests} manifests, {report.tags} tags, {report.blobs} blobs, "
        f"{report.repositories} empty repositories) in {report.seconds:.1f} s"
    )


def _collected(data: Path, dry_run: bool, untagged: bool, grace: Duration | None) -> Report:
    from shipline.server.check import opened
    from shipline.server.collect import collect
    from shipline.server.collection import Collection
    from shipline.server.uploads import Uploads

    options = Collection(every=None, untagged=untagged)
    if grace is not None:
        options = replace(options, grace=grace)
    with _disk(data), opened(data) as storage:
        if not dry_run:
            Uploads(storage).recover()
            Uploads(storage).expire()
        actor, tell = local_actor(), tell_audit(data)
        return collect(storage, options, dry_run=dry_run, actor=actor, tell=tell)


@click.command("check")
@_directory
@click.option("--quick", is_flag=True, help="Hash no blobs, only manifests.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each fault.")
def check(data: Path, quick: bool, as_json: bool) -> None:
    """Verify every file, record and index of DIR; the exit status is 8 if something is wrong."""
    from shipline.server.check import Summary, opened
    from shipline.server.check import check as check_directory

    summary = Summary()
    with _disk(data), opened(data) as storage, _progress() as advance:
        for finding in check_directory(storage, summary, quick=quick, advance=advance):
            _show(finding, as_json)
    _conclude(summary, as_json)
    if not summary.clean:
        raise ContentError(
            f"{data} has {summary.kinds.total()} faults",
            hint=f"shipline registry repair {data} --dry-run says what would be done",
        )


@click.command("repair")
@_directory
@click.option("--dry-run", is_flag=True, help="Say what is wrong, and leave it.")
@click.option("--quick", is_flag=True, help="Hash no blobs, only manifests.")
@click.option("--recover", is_flag=True, help="Make new metadata where all of it is lost.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each fault.")
def repair(data: Path, dry_run: bool, quick: bool, recover: bool, as_json: bool) -> None:
    """Mend DIR: damaged files go to DIR/quarantine, records without their bytes go, indexes are
    made again. What is lost is named; pushing it again brings it back.
    """
    from shipline.server.check import Summary, check, opened
    from shipline.server.repair import repair as repair_directory

    if recover:
        _recover(data, dry_run)
        return
    with _disk(data), opened(data) as storage, _progress() as advance:
        if dry_run:
            summary = Summary()
            for finding in check(storage, summary, quick=quick, advance=advance):
                _show(finding, as_json)
        else:
            summary = repair_directory(
                storage, quick=quick, told=lambda fault: _show(fault, as_json), advance=advance
            )
    _conclude(summary, as_json, "would be repaired" if dry_run else "repaired")


@click.command("convert")
@_directory
@click.option("--metadata", type=click.Choice(["sqlite", "rocksdb"]), required=True)
def convert(data: Path, metadata: str) -> None:
    """Move the metadata of DIR to another store."""
    from shipline.server.convert import convert as convert_directory

    with _disk(data):
        number = convert_directory(data, metadata)
    click.echo(f"{number} records are in {metadata} now")


def _recover(data: Path, dry_run: bool) -> None:
    from shipline.errors import UsageError
    from shipline.server.recover import UNNAMED, recover

    if dry_run:
        raise UsageError("--recover has no dry run", hint="copy the directory and try it there")
    with _disk(data):
        found = recover(data)
    click.echo(f"recovered {found.named} manifests by name, and {found.unnamed} in {UNNAMED}")


def _show(finding: Finding, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding.to_json()))
    else:
        click.echo(f"{finding.kind}: {finding.subject}: {finding.message}")


def _conclude(summary: Summary, as_json: bool, verb: str = "found") -> None:
    if as_json:
        facts = {"files": summary.files, "bytes": summary.bytes, "faults": dict(summary.kinds)}
        click.echo(json.dumps({"summary": facts | {"repositories": summary.repositories}}))
        return
    faults = summary.kinds.total()
    click.echo(
        f"{summary.files} files, {shown_size(summary.bytes)}, {summary.repositories} repositories: "
        + (f"{faults} faults {verb}" if faults else "no fault")
    )


@contextmanager
def _disk(data: Path) -> Iterator[None]:
    """What the disk or the metadata refuses is told as what it is."""
    try:
        yield
    except OSError as error:
        raise ContentError(f"{data}: {error.strerror or error}") from error


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A line on a terminal that counts the bytes that were looked at."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    done, files, shown = 0, 0, time.monotonic()

    def advance(size: int) -> None:
        nonlocal done, files, shown
        done, files = done + size, files + 1
        if time.monotonic() - shown > _EVERY_S:
            shown = time.monotonic()
            click.echo(f"\r\x1b[K{files} files, {shown_size(done)}", nl=False, err=True)

    try:
        yield advance
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)
