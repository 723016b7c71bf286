"""`shipline registry gc`, `check`, `repair`, `convert`, `retention` and `webhook`: care for a data
directory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.registry_directory import (
    ask,
    done_by,
    local_actor,
    node_option,
    required_node_option,
    table,
    tell_audit,
)
from shipline.errors import ContentError, UsageError
from shipline.units import shown_size

if TYPE_CHECKING:
    from shipline.server.admission.retention import RetentionDecision
    from shipline.server.fsck import CheckSummary, Inconsistency
    from shipline.server.gc import GcReport
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
    from shipline.server.gc import GcReport

    if (data is None) == (node is None):
        raise UsageError("free what?", hint="say either --data DIR or --node HOST")
    if data is not None:
        report = _collected(data, dry_run, untagged, grace)
    else:
        span = None if grace is None else str(grace) or "0"
        wish = {"dry_run": dry_run, "untagged": untagged or None, "grace": span}
        wanted = {name: value for name, value in wish.items() if value is not None}
        report = GcReport(**done_by(str(node), "/api/gc", wanted))
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    would = "would free" if dry_run else "freed"
    click.echo(
        f"{would} {shown_size(report.bytes)} in {report.files} files "
        f"({report.manifests} manifests, {report.tags} tags, {report.blobs} blobs, "
        f"{report.repositories} empty repositories) in {report.seconds:.1f} s"
    )


def _collected(data: Path, dry_run: bool, untagged: bool, grace: Duration | None) -> GcReport:
    from shipline.server.fsck import opened
    from shipline.server.gc import GcOptions, collect
    from shipline.server.uploads import Uploads

    options = GcOptions(every=None, untagged=untagged)
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
    from shipline.server.fsck import CheckSummary, opened
    from shipline.server.fsck import check as check_directory

    summary = CheckSummary()
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
    from shipline.server.fsck import CheckSummary, check, opened
    from shipline.server.recovery import repair as repair_directory

    if recover:
        _recover(data, dry_run)
        return
    with _disk(data), opened(data) as storage, _progress() as advance:
        if dry_run:
            summary = CheckSummary()
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
    from shipline.server.recovery import convert as convert_directory

    with _disk(data):
        number = convert_directory(data, metadata)
    click.echo(f"{number} records are in {metadata} now")


def _recover(data: Path, dry_run: bool) -> None:
    from shipline.errors import UsageError
    from shipline.server.recovery import UNNAMED, recover

    if dry_run:
        raise UsageError("--recover has no dry run", hint="copy the directory and try it there")
    with _disk(data):
        found = recover(data)
    click.echo(f"recovered {found.named} manifests by name, and {found.unnamed} in {UNNAMED}")


def _show(finding: Inconsistency, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding.to_json()))
    else:
        click.echo(f"{finding.kind}: {finding.subject}: {finding.message}")


def _conclude(summary: CheckSummary, as_json: bool, verb: str = "found") -> None:
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


@click.command("retention")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="shipline.yaml.")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="The directory.")
@node_option
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def retention(
    config: Path | None, data: Path | None, node: str | None, dry_run: bool, as_json: bool
) -> None:
    """Remove the tags that no rule of registry.policy.retention keeps.

    The directory must not be served meanwhile; --node has a node do it by its own rules.
    """
    if node is None:
        done = [one.to_json() for one in _retained(config, data, dry_run)]
    elif config or data:
        raise UsageError("a node has its own rules and directory", hint="leave out --node")
    else:
        done = done_by(node, "/api/retention", {"dry_run": dry_run})
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    for one in done:
        click.echo(_line(one, dry_run))
    gone = sum(not one["kept"] for one in done)
    click.echo(f"{'would remove' if dry_run else 'removed'} {gone} of {len(done)} tags", err=True)


def _retained(config: Path | None, data: Path | None, dry_run: bool) -> list[RetentionDecision]:
    from shipline.config import load
    from shipline.server import Storage
    from shipline.server.admission.retention import retain
    from shipline.server.admission.rules import AdmissionRules
    from shipline.server.manifests import Manifests
    from shipline.server.metrics import Metrics

    loaded = load(config, Path.cwd(), os.environ)
    section, base = loaded.registry, loaded.file.parent if loaded.file else Path.cwd()
    if section is None or not section.policy.retention:
        raise UsageError(
            "there are no rules of retention", hint="write them to registry.policy.retention"
        )
    place = data or (base / section.data if section.data else None)
    if place is None:
        raise UsageError("which directory?", hint="say --data DIR, or registry.data")
    if not (place / "blobs").is_dir():
        raise UsageError(f"{place} is not the directory of a node")
    with closing(Storage(place)) as storage:
        manifests = Manifests(storage)
        door = AdmissionRules(section.policy, storage, manifests, Metrics(), base)
        rules, actor, tell = section.policy.retention, local_actor(), tell_audit(place)
        return retain(storage, manifests, rules, door=door, dry_run=dry_run, actor=actor, tell=tell)


def _line(decision: Mapping[str, Any], dry_run: bool) -> str:
    verb = "keep" if decision["kept"] else "would remove" if dry_run else "removed"
    return f"{verb:12}  {decision['repository']}:{decision['tag']}  {decision['reason']}"


@click.group("webhook")
def webhook() -> None:
    """Receivers of a running node's events."""


@webhook.command("ls")
@required_node_option
@click.option("--json", "as_json", is_flag=True, help="Print what the node says, with events.")
def list_webhooks(node: str, as_json: bool) -> None:
    """List receivers: how many events wait, and how many were given up."""
    raw = ask(node, "GET", "/api/webhooks")
    if as_json:
        click.echo(raw)
        return
    found: list[dict[str, Any]] = json.loads(raw)
    rows = [
        (
            one["name"],
            str(one["waiting"]),
            str(one["given_up"]),
            one["url"],
            one["events"][0]["reason"] if one["events"] else "",
        )
        for one in found
    ]
    table(("NAME", "WAITING", "GIVEN UP", "URL", "REASON"), rows)


@webhook.command("test")
@click.argument("name")
@required_node_option
def ping(name: str, node: str) -> None:
    """Have the node send a ping to receiver NAME, and say how that went."""
    ask(node, "POST", f"/api/webhooks/{name}/test")
    click.echo(f"{name} has taken the ping", err=True)


@webhook.command("redeliver")
@click.argument("name")
@required_node_option
def redeliver(name: str, node: str) -> None:
    """Have the node send once more what receiver NAME did not take."""
    number = json.loads(ask(node, "POST", f"/api/webhooks/{name}/redeliver"))["events"]
    click.echo(f"{number} events wait for {name} again", err=True)
