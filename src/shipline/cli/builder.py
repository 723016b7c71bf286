"""`shipline builder`: what builds need of this machine."""

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
    help="Emulate these, a comma list; by default all that an emulator is installed for.",
)
def bootstrap(platforms: Sequence[str]) -> None:
    """Register emulators for programs of other processors, once, as root.

    Prints the platforms that run here now, and how to undo what was registered. A build by root
    registers what it needs by itself.
    """
    from shipline.sandbox import emulators, register, supported_platforms

    if os.geteuid() != 0:
        raise SandboxError(
            "only root can register emulators on this machine",
            hint="run it as root; builds of an ordinary user register their own, unseen by others",
        )
    undo = [register(one) for one in parse_platforms(platforms) or emulators()]
    for platform in supported_platforms():
        click.echo(str(platform))
    for command in filter(None, undo):
        click.echo(f"registered; to undo it: {command}", err=True)
