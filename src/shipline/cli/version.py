"""`shipline version`: the versions of what a result may depend on."""

from __future__ import annotations

import platform

import click

from shipline import __version__

_PARTS = ("click", "cryptography", "deflate", "granian", "isal", "urllib3", "zstandard")


@click.command("version")
def command() -> None:
    """Print the version of shipline and of the parts it is made of."""
    from importlib.metadata import PackageNotFoundError, version

    click.echo(f"shipline {__version__}")
    click.echo(f"{platform.python_implementation()} {platform.python_version()}")
    for part in _PARTS:
        try:
            click.echo(f"{part} {version(part)}")
        except PackageNotFoundError:
            click.echo(f"{part} missing")
