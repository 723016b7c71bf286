"""`shipline builder`: preparing this machine for builds."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from shipline.build import parse_platforms
from shipline.errors import SandboxError


@click.group("builder")
def group() -> None:
    """Prepare this machine for builds."""


@group.command("bootstrap")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Platforms to emulate, comma-separated; default all with an installed emulator.",
)
def bootstrap(platforms: Sequence[str]) -> None:
    """Register emulators for other architectures, once, as root.

    Prints the platforms that run now, and how to undo the registration. Builds by root register
    what they need themselves.
    """
    from shipline.sandbox import emulators, register, supported_platforms

    if os.geteuid() != 0:
        raise SandboxError(
            "only root can register emulators",
            hint="run it as root; builds without root register emulators in their own namespace",
        )
    undo = [register(platform) for platform in parse_platforms(platforms) or emulators()]
    for platform in supported_platforms():
        click.echo(str(platform))
    for command in filter(None, undo):
        click.echo(f"registered; to undo it: {command}", err=True)
