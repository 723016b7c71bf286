"""`shipline registry`: run a registry node."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("registry")
def group() -> None:
    """Run a registry node."""


@group.command("serve")
@click.option("--listen", default="127.0.0.1:5000", metavar="ADDRESS:PORT", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR")
@click.option("--insecure-open", is_flag=True, help="Let other machines in: everyone may push.")
def serve(listen: str, data: Path, insecure_open: bool) -> None:
    """Serve the images below DIR until interrupted."""
    from shipline.server import serve_registry

    serve_registry(
        f"0.0.0.0{listen}" if listen.startswith(":") else listen,
        data,
        ready=lambda url: click.echo(f"serving {data} on {url}", err=True),
        insecure_open=insecure_open,
    )
