"""`shipline registry gc`, `check`, `repair`, `convert`, `retention`, `purge-list` and `webhook`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.program import CommandGroup
from shipline.cli.registry_node import (
    ask,
    audit_publisher,
    check_target,
    directory_option,
    local_actor,
    node_option,
    required_node_option,
    run_job,
    table,
)
from shipline.errors import ContentError, FlagConflict, MissingFlag, UsageError
from shipline.units import counted, shown_size
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.server.admission.retention import RetentionDecision
    from shipline.server.fsck import CheckSummary, Inconsistency
    from shipline.server.gc import GcReport
    from shipline.units import Duration


_EVERY_S = 0.2  # between two updates of the progress line


def _parse_span(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Duration | None:
    """A duration such as 90s, 5m, 1h30m, or 0."""
    from shipline.units import Duration

    if value is None:
        return None
    try:
        return Duration(0) if value == "0" else Duration.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


_OFFLINE = "A data directory that is not being served; DIR alone means the same."
_required_directory = directory_option(_OFFLINE, required=True)


@click.command("gc")
@directory_option(_OFFLINE)
@node_option
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
@click.option("--untagged", is_flag=True, help="Also collect manifests unreachable from any tag.")
@click.option(
    "--grace",
    callback=_parse_span,
    metavar="TIME",
    help="Keep what was pushed within this time; default 1h, or the node's setting.",
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
    """Run garbage collection now. A node also runs it periodically."""
    from shipline.server.gc import GcReport

    check_target(data, node)
    if data is not None:
        report = _collect(data, dry_run, untagged, grace)
    else:
        span = None if grace is None else str(grace) or "0"
        options = {"dry_run": dry_run, "untagged": untagged or None, "grace": span}
        overrides = {name: value for name, value in options.items() if value is not None}
        report = GcReport(**run_job(str(node), "/api/gc", overrides))
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    would = "would free" if dry_run else "freed"
    click.echo(
        f"{would} {shown_size(report.bytes)} in {report.files} files "
        f"({report.manifests} manifests, {report.tags} tags, {report.blobs} blobs, "
        f"{report.repositories} empty repositories) in {report.seconds:.1f} s"
    )


def _collect(data: Path, dry_run: bool, untagged: bool, grace: Duration | None) -> GcReport:
    from shipline.server.fsck import open_offline
    from shipline.server.gc import GcOptions, collect
    from shipline.server.uploads import UploadStore

    options = GcOptions(every=None, untagged=untagged)
    if grace is not None:
        options = replace(options, grace=grace)
    with _disk(data), open_offline(data) as storage:
        if not dry_run:
            UploadStore(storage).recover()
            UploadStore(storage).expire()
        actor, publish = local_actor(), audit_publisher(data)
        return collect(storage, options, dry_run=dry_run, actor=actor, publish=publish)


@click.command("check")
@_required_directory
@click.option("--quick", is_flag=True, help="Hash only manifests, not blobs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each finding.")
def check(data: Path, quick: bool, as_json: bool) -> None:
    """Check all files and records of DIR; exits with 8 if there are findings."""
    from shipline.server.fsck import CheckSummary, open_offline
    from shipline.server.fsck import check as check_directory

    summary = CheckSummary()
    with _disk(data), open_offline(data) as storage, _progress() as advance:
        for finding in check_directory(storage, summary, quick=quick, advance=advance):
            _show(finding, as_json)
    _print_summary(summary, as_json)
    if not summary.clean:
        raise ContentError(
            f"{data} has {counted(summary.kinds.total(), 'finding')}",
            code="registry-findings",
            hint=f"shipline registry repair --data {data} --dry-run shows what would be repaired",
        )


@click.command("repair")
@_required_directory
@click.option("--dry-run", is_flag=True, help="Show the findings, and change nothing.")
@click.option("--quick", is_flag=True, help="Hash only manifests, not blobs.")
@click.option("--recover", is_flag=True, help="Create new metadata if all of it is lost.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each finding.")
def repair(data: Path, dry_run: bool, quick: bool, recover: bool, as_json: bool) -> None:
    """Repair DIR: move damaged files to DIR/quarantine, delete records without content, rebuild
    derived records. Lost content is listed; pushing it again restores it.
    """
    from shipline.server.fsck import CheckSummary, check, open_offline
    from shipline.server.recovery import repair as repair_directory
    from shipline.server.recovery import restore_layout

    if recover:
        _recover(data, dry_run)
        return
    if not dry_run:
        with _disk(data):
            restore_layout(data)
    with _disk(data), open_offline(data) as storage, _progress() as advance:
        if dry_run:
            summary = CheckSummary()
            for finding in check(storage, summary, quick=quick, advance=advance):
                _show(finding, as_json)
        else:
            summary = repair_directory(
                storage, quick=quick, on_repair=lambda found: _show(found, as_json), advance=advance
            )
    _print_summary(summary, as_json, "would be repaired" if dry_run else "repaired")


@click.command("convert")
@_required_directory
@click.option("--metadata", type=click.Choice(["sqlite", "rocksdb"]), required=True)
def convert(data: Path, metadata: str) -> None:
    """Convert the metadata of DIR to another store."""
    from shipline.server.recovery import convert as convert_directory

    with _disk(data):
        number = convert_directory(data, metadata)
    click.echo(f"converted {counted(number, 'record')} to {metadata}")


def _recover(data: Path, dry_run: bool) -> None:
    from shipline.server.recovery import UNNAMED, recover

    if dry_run:
        raise FlagConflict("--recover has no dry run", hint="copy the directory and try it there")
    with _disk(data):
        recovered = recover(data)
    click.echo(
        f"recovered {recovered.named} manifests by name, and {recovered.unnamed} in {UNNAMED}"
    )


def _show(finding: Inconsistency, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding.to_json()))
    else:
        click.echo(f"{finding.kind}: {finding.subject}: {finding.message}")


def _print_summary(summary: CheckSummary, as_json: bool, verb: str = "found") -> None:
    if as_json:
        facts = {"files": summary.files, "bytes": summary.bytes, "findings": dict(summary.kinds)}
        click.echo(json.dumps({"summary": facts | {"repositories": summary.repositories}}))
        return
    findings = summary.kinds.total()
    click.echo(
        f"{summary.files} files, {shown_size(summary.bytes)}, {summary.repositories} repositories: "
        + (f"{counted(findings, 'finding')} {verb}" if findings else "no findings")
    )


@contextmanager
def _disk(data: Path) -> Iterator[None]:
    """Translates I/O errors."""
    try:
        yield
    except OSError as error:
        raise ContentError(
            f"{data}: {error.strerror or error}", code="registry-data-unreadable"
        ) from error


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A progress line on a terminal."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    decisions, files, shown = 0, 0, time.monotonic()

    def advance(size: int) -> None:
        nonlocal decisions, files, shown
        decisions, files = decisions + size, files + 1
        if time.monotonic() - shown > _EVERY_S:
            shown = time.monotonic()
            click.echo(f"\r\x1b[K{files} files, {shown_size(decisions)}", nl=False, err=True)

    try:
        yield advance
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


@click.command("retention")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="shipline.yaml.")
@directory_option(_OFFLINE)
@node_option
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def retention(
    config: Path | None, data: Path | None, node: str | None, dry_run: bool, as_json: bool
) -> None:
    """Remove the tags that no rule of registry.policy.retention keeps.

    The directory must not be served meanwhile; with --node, a running node applies its own rules.
    """
    if node is None:
        decisions = [decision.to_json() for decision in _retain(config, data, dry_run)]
    elif config or data:
        raise FlagConflict(
            "--node excludes --config and --data", hint="a node has its own rules and directory"
        )
    else:
        decisions = run_job(node, "/api/retention", {"dry_run": dry_run})
    if as_json:
        click.echo(json.dumps(decisions, indent=2))
        return
    for decision in decisions:
        click.echo(_line(decision, dry_run))
    removed = sum(not decision["kept"] for decision in decisions)
    click.echo(
        f"{'would remove' if dry_run else 'removed'} {removed} of {len(decisions)} tags", err=True
    )


def _retain(config: Path | None, data: Path | None, dry_run: bool) -> list[RetentionDecision]:
    from shipline.config import load
    from shipline.server import Storage
    from shipline.server.admission.retention import retain
    from shipline.server.admission.rules import AdmissionRules
    from shipline.server.manifests import Manifests
    from shipline.server.metrics import Metrics

    loaded = load(config, Path.cwd(), os.environ)
    section, base = loaded.registry, loaded.file.parent if loaded.file else Path.cwd()
    if section is None or not section.policy.retention:
        raise MissingFlag("no retention rules", hint="add them to registry.policy.retention")
    data_directory = data or (base / section.data if section.data else None)
    if data_directory is None:
        raise MissingFlag("no data directory given", hint="pass --data DIR, or set registry.data")
    if not (data_directory / "blobs").is_dir():
        raise UsageError(
            f"{data_directory} is not the data directory of a registry",
            code="registry-data-directory",
        )
    with closing(Storage(data_directory)) as storage:
        manifests = Manifests(storage)
        admission = AdmissionRules(section.policy, storage, manifests, Metrics(), base)
        rules, actor, publish = (
            section.policy.retention,
            local_actor(),
            audit_publisher(data_directory),
        )
        return retain(
            storage,
            manifests,
            rules,
            admission=admission,
            dry_run=dry_run,
            actor=actor,
            publish=publish,
        )


def _line(decision: Mapping[str, Any], dry_run: bool) -> str:
    verb = "keep" if decision["kept"] else "would remove" if dry_run else "removed"
    return f"{verb:12}  {decision['repository']}:{decision['tag']}  {decision['reason']}"


@click.command("purge-list")
@required_node_option
@click.option(
    "--since", callback=_parse_span, metavar="TIME", help="Only the last TIME, such as 90m or 1d."
)
def purge_list(node: str, since: Duration | None) -> None:
    """Print the URLs that the node's CDN must purge, one per line: removed content, moved tags."""
    query = f"?since={since}" if since and since.milliseconds else ""
    for url in ask(node, "GET", f"/api/cdn/purges{query}").splitlines():
        click.echo(url)


@click.group("webhook", cls=CommandGroup)
def webhook() -> None:
    """Webhook receivers of a running node."""


@webhook.command("ls")
@required_node_option
@click.option("--json", "as_json", is_flag=True, help="Print the node's JSON, with events.")
def list_webhooks(node: str, as_json: bool) -> None:
    """List receivers, with their numbers of waiting and given-up events."""
    raw = ask(node, "GET", "/api/webhooks")
    if as_json:
        click.echo(raw)
        return
    webhooks: list[dict[str, Any]] = json.loads(raw)
    rows = [
        (
            webhook["name"],
            str(webhook["waiting"]),
            str(webhook["given_up"]),
            webhook["url"],
            webhook["events"][0]["reason"] if webhook["events"] else "",
        )
        for webhook in webhooks
    ]
    table(("NAME", "WAITING", "GIVEN UP", "URL", "REASON"), rows)


@webhook.command("test")
@click.argument("name")
@required_node_option
def ping(name: str, node: str) -> None:
    """Send a ping to receiver NAME from the node."""
    ask(node, "POST", f"/api/webhooks/{name}/test")
    click.echo(f"{name} accepted the ping", err=True)


@webhook.command("redeliver")
@click.argument("name")
@required_node_option
def redeliver(name: str, node: str) -> None:
    """Retry the given-up events of receiver NAME."""
    number = json.loads(ask(node, "POST", f"/api/webhooks/{name}/redeliver"))["events"]
    click.echo(f"{number} events queued for {name}", err=True)
