"""`shipline registry`: run a registry node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.registry_accounts import project, user
from shipline.cli.registry_care import check, convert, gc, repair
from shipline.cli.registry_robots import audit, robot, token

if TYPE_CHECKING:
    from shipline.server.access import AccessSection


@click.group("registry")
def group() -> None:
    """Run a registry node."""


for _command in (user, project, robot, token, audit, gc, check, repair, convert):
    group.add_command(_command)


@group.command("serve")
@click.option("--listen", default="127.0.0.1:5000", metavar="ADDRESS:PORT", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR")
@click.option("--insecure-open", is_flag=True, help="Let other machines in: everyone may push.")
@click.option("--insecure-http", is_flag=True, help="Accounts without TLS, behind a proxy.")
@click.option("--accounts", is_flag=True, help="Demand accounts on a loopback address too.")
@click.option("--tls-cert", metavar="FILE", default="", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", default="", help="Its private key (PEM).")
@click.option("--tls-client-ca", metavar="FILE", default="", help="Demand client certificates.")
@click.option("--hostname", metavar="NAME", multiple=True, help="Name of the made certificate.")
@click.option("--public-url", metavar="URL", default="", help="How clients reach the node.")
@click.option("--public-project", metavar="NAME", multiple=True, help="Everyone may pull from it.")
def serve(
    listen: str, data: Path, insecure_open: bool, insecure_http: bool, **options: Any
) -> None:
    """Serve the images below DIR until interrupted.

    On a loopback address the node is open to this machine. On any other it demands TLS and
    accounts: it makes what is missing and prints the administrator's password, once.
    """
    from shipline.server import RegistrySection, serve_registry

    serve_registry(
        f"0.0.0.0{listen}" if listen.startswith(":") else listen,
        data,
        ready=lambda url: click.echo(f"serving {data} on {url}", err=True),
        notify=lambda line: click.echo(line, err=True),
        insecure_open=insecure_open,
        insecure_http=insecure_http,
        section=RegistrySection(access=_access(options)),
    )


def _access(options: dict[str, Any]) -> AccessSection:
    from shipline.server.access import AccessSection, TlsSection

    return AccessSection(
        mode="accounts" if options["accounts"] else "auto",
        url=options["public_url"],
        public_projects=options["public_project"],
        tls=TlsSection(
            cert=options["tls_cert"],
            key=options["tls_key"],
            client_ca=options["tls_client_ca"],
            names=options["hostname"],
        ),
    )
