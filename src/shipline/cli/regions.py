"""`shipline regions`: the registries that serve images elsewhere."""

from __future__ import annotations

import click

from shipline.cli.region_check import check_command


@click.group("regions")
def group() -> None:
    """Show the registries that serve images elsewhere."""


group.add_command(check_command)
