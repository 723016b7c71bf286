"""`shipline regions`: how far behind the regions of a node are, and which tags they lack."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import click

from shipline.cli.environment import host_of, registry_options, use_mirrors
from shipline.cli.options import CONFIGURATION
from shipline.cli.program import CommandGroup
from shipline.cli.registry_node import ask, when
from shipline.errors import ConfigError, MissingFlag, UsageError
from shipline.units import shown_size

_EVERY_S = 2.0


@click.group("regions", cls=CommandGroup, invoke_without_command=True)
@click.option(
    "--node", metavar="HOST[:PORT]", help="The node to ask; log in there as an administrator."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--watch", is_flag=True, help="Every two seconds, until interrupted.")
@registry_options
@click.pass_context
def group(context: click.Context, node: str | None, as_json: bool, watch: bool) -> None:
    """Show how far behind the regions of a node are.

    Its followers as of their last poll, and the replications that it makes itself.
    """
    if context.invoked_subcommand is not None:
        return
    if node is None:
        raise MissingFlag("no node given", hint="pass --node HOST, a primary or an edge")
    _show_states(host_of(node), as_json=as_json, watch=watch)


@group.command("check")
@click.argument("tags", nargs=-1, metavar="[TAG]...")
@CONFIGURATION
@click.option("--region", "regions", multiple=True, metavar="NAME", help="Check this region alone.")
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
@registry_options
def check_command(
    tags: tuple[str, ...], path: Path | None, regions: tuple[str, ...], as_json: bool
) -> None:
    """Compare the tags in each region with those of the image's own registry, all or some.

    Exits with 15 if a region lacks one, or has it for another image, whether or not others can be
    asked; else with 6 or 7 if one cannot.
    """
    from shipline.api import open_client
    from shipline.config import load
    from shipline.home import state_directory
    from shipline.ship.drift import RegionsDiffer, find_drift
    from shipline.ship.runs import Runs
    from shipline.units import counted

    config = load(path, Path.cwd(), os.environ)
    known = config.pipeline.in_regions
    if not known:
        hint = "add `regions: {registries: {eu: registry.eu.example}}`"
        raise ConfigError("shipline.yaml names no regions", code="regions-none", hint=hint)
    for name in regions:
        if name not in known:
            raise UsageError(
                f"there is no region {name!r}",
                code="region-unknown",
                hint=f"there is {', '.join(known)}",
            )
    use_mirrors(config.registry_mirrors)
    with open_client() as client:
        found = find_drift(config.pipeline, client.repository, tags, regions)
    if as_json:
        facts = [
            {
                "region": one.region,
                "name": one.name,
                "wanted": str(one.wanted),
                "found": str(one.found or ""),
                "error": one.failure.message if one.failure else "",
            }
            for one in found
        ]
        click.echo(json.dumps(facts, indent=2))
    elif not found:
        click.echo(f"no difference in {', '.join(regions or known)}")
    for one in found:
        click.echo(str(one), err=True)
    if differing := Counter(one.region for one in found if one.failure is None):
        tags_of = ", ".join(f"{counted(n, 'tag')} in {region}" for region, n in differing.items())
        shipped = config.file is not None and Runs(state_directory()).has(str(config.file.parent))
        raise RegionsDiffer(
            f"not as in the primary registry: {tags_of}",
            hint="`shipline ship --resume RUN` sets the tags of a run again, at its commit;"
            " `shipline runs` lists them"
            if shipped
            else "`shipline ship` publishes a commit to all regions; nothing was shipped from here",
        )
    if failures := [one.failure for one in found if one.failure is not None]:
        raise failures[0]


def _show_states(node: str, *, as_json: bool, watch: bool) -> None:
    """Print the followers of a node, and the replications that it makes itself; with `watch` again
    and again, until interrupted.
    """
    from shipline.tasks import sleep

    while True:
        document = json.loads(ask(node, "GET", "/_shipline/regions"))
        if as_json:
            click.echo(json.dumps(document["regions"], indent=None if watch else 2))
        else:
            if watch:
                click.clear()
            click.echo(_table(document), nl=False)
        if not watch:
            return
        sleep(_EVERY_S)


def _table(document: dict[str, Any]) -> str:
    from shipline.cli.tables import columns

    heads = (
        "REGION",
        "MODE",
        "REMOTE",
        "LAG",
        "ENTRIES",
        "IN FLIGHT",
        "ERRORS",
        "VERIFIED",
        "SEEN",
    )
    now = float(document["now"])
    rows = [_row(one, now) for one in document["regions"]]
    return (
        columns([heads, *rows], 3) if rows else "no edge follows this node, and it copies nothing\n"
    )


def _row(region: dict[str, Any], now: float) -> tuple[str, ...]:
    error = f" ({region['error']})" if region["error"] else ""
    return (
        region["name"],
        region["mode"],
        region["remote"],
        f"{region['seconds']:.0f}s",
        "unknown" if region["entries"] is None else str(region["entries"]),
        shown_size(region["bytes"]),
        f"{region['errors']}{error}",
        when(region["verified"]),
        f"{max(now - region['seen'], 0):.0f}s ago" if region["seen"] else "never",
    )
