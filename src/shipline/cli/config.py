"""`shipline config`: check the configuration file, show what it comes to, print its schema."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from shipline.errors import ConfigError

FILE = click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration; by default shipline.yaml here or above.",
)


@click.group("config")
def group() -> None:
    """Check and show shipline.yaml."""


@group.command("check")
@FILE
def check(path: Path | None) -> None:
    """Tell everything that is wrong with the file; silent success is status 0."""
    from shipline.config import load

    found = load(path, Path.cwd(), os.environ).file
    if found is None:
        raise ConfigError("there is no shipline.yaml", hint="`shipline init` writes a first one")
    click.echo(f"{os.path.relpath(found)}: no errors", err=True)


@group.command("show")
@FILE
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of YAML.")
@click.option("--all", "everything", is_flag=True, help="Also keys that have their default.")
def show(path: Path | None, as_json: bool, everything: bool) -> None:
    """Print the configuration as it was understood, variables replaced."""
    from shipline.config import encode, load

    value = encode(load(path, Path.cwd(), os.environ), defaults=everything)
    if as_json:
        click.echo(json.dumps(value, indent=2))
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, sys.stdout)


@group.command("schema")
def schema() -> None:
    """Print the JSON Schema of shipline.yaml."""
    from shipline.config import file_schema

    click.echo(json.dumps(file_schema(), indent=2))


@group.command("reference")
def reference() -> None:
    """Print the keys of shipline.yaml as Markdown."""
    from shipline.config import reference as page

    click.echo(page(), nl=False)
