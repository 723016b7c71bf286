"""`shipline registry retention`: which tags have had their time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.registry_directory import local_actor, tell_audit
from shipline.cli.registry_node import done_by, node_option
from shipline.errors import UsageError

if TYPE_CHECKING:
    from shipline.server.door.retention import Decision


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


def _retained(config: Path | None, data: Path | None, dry_run: bool) -> list[Decision]:
    from shipline.config import load
    from shipline.server import Storage
    from shipline.server.door.retention import retain
    from shipline.server.door.rules import RuleDoor
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
        door = RuleDoor(section.policy, storage, manifests, Metrics(), base)
        rules, actor, tell = section.policy.retention, local_actor(), tell_audit(place)
        return retain(storage, manifests, rules, door=door, dry_run=dry_run, actor=actor, tell=tell)


def _line(decision: Mapping[str, Any], dry_run: bool) -> str:
    verb = "keep" if decision["kept"] else "would remove" if dry_run else "removed"
    return f"{verb:12}  {decision['repository']}:{decision['tag']}  {decision['reason']}"
