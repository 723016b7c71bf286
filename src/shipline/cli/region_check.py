"""`shipline regions check`: what regions of shipline.yaml lack, or have otherwise."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import click

from shipline.cli.environment import registry_options, use_mirrors
from shipline.errors import ConfigError, UsageError


@click.command("check")
@click.argument("tags", nargs=-1, metavar="[TAG]...")
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration; by default shipline.yaml in this directory or above.",
)
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
        raise ConfigError("shipline.yaml names no regions", hint=hint)
    for name in regions:
        if name not in known:
            raise UsageError(f"there is no region {name!r}", hint=f"there is {', '.join(known)}")
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
