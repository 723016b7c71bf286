"""`shipline regions check`: what regions of shipline.yaml lack, or have otherwise."""

from __future__ import annotations

import json
import os
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

    Exits with 15 if a region lacks one, or has it for another image.
    """
    from shipline.api import open_client
    from shipline.config import load
    from shipline.ship.drift import RegionsDiffer, find_drift

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
    differing = sum(one.failure is None for one in found)
    if differing:
        raise RegionsDiffer(
            f"{differing} of the tags differ in the regions",
            hint="`shipline ship --resume` completes the latest run; for another version, run it"
            " again at its commit",
        )
    if failures := [one.failure for one in found if one.failure is not None]:
        raise failures[0]
