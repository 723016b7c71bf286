"""`shipline config`: check and show the configuration, print its schema and reference."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.options import CONFIGURATION
from shipline.cli.program import CommandGroup
from shipline.errors import ConfigError
from shipline.units import counted

if TYPE_CHECKING:
    from shipline.config import Config


@click.group("config", cls=CommandGroup)
def group() -> None:
    """Check and show shipline.yaml."""


@group.command("check")
@CONFIGURATION
def check(path: Path | None) -> None:
    """Report all errors in the file, and files it names that do not exist."""
    from shipline.config import load

    config = load(path, Path.cwd(), os.environ)
    if config.file is None:
        raise ConfigError(
            "there is no shipline.yaml", code="config-missing", hint="`shipline init` creates one"
        )
    shown = os.path.relpath(config.file)
    problems = [*_missing(config, config.file.parent)]
    if problems:
        count = counted(len(problems), "error")
        error = ConfigError(
            f"{shown}: {count} in files and names that it refers to", code="config-invalid"
        )
        for problem in problems:
            error.add_note(problem)
        raise error
    click.echo(f"{shown}: no errors", err=True)


def _missing(config: Config, root: Path) -> Iterator[str]:
    from shipline.ship.plan import ProjectConfig
    from shipline.ship.preparation import missing_parts
    from shipline.tags import TagsSection
    from shipline.trust import load_trust

    assert config.file is not None
    tags = config.tags or TagsSection()
    yield from missing_parts(
        ProjectConfig(
            root, config.file.name, config.pipeline, tags, config.gates, config.environments or {}
        )
    )
    try:
        load_trust(config.trust, root)
    except ConfigError as error:
        yield f"trust.{error.message}"


@group.command("show")
@CONFIGURATION
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of YAML.")
@click.option("--all", "everything", is_flag=True, help="Include keys with default values.")
def show(path: Path | None, as_json: bool, everything: bool) -> None:
    """Print the effective configuration, with variables replaced."""
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
