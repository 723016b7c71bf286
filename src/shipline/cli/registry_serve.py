"""`shipline registry serve`: run a node, from shipline.yaml and from flags."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shipline.errors import UsageError

if TYPE_CHECKING:
    from shipline.server import LogSection, RegistrySection
    from shipline.server.access import AccessSection, TlsSection

Section = TypeVar("Section", "RegistrySection", "AccessSection", "TlsSection", "LogSection")
_LISTEN = "127.0.0.1:5000"


@click.command("serve")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="shipline.yaml.")
@click.option("--listen", metavar="ADDRESS:PORT", help=f"Where to listen; default {_LISTEN}.")
@click.option("--data", metavar="DIR", help="The directory of the node.")
@click.option(
    "--insecure-open",
    is_flag=True,
    help="Listen beyond loopback without accounts: anyone may push.",
)
@click.option("--insecure-http", is_flag=True, help="Accounts without TLS, behind a proxy.")
@click.option("--accounts", is_flag=True, help="Demand accounts on a loopback address too.")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--tls-client-ca", metavar="FILE", help="Demand client certificates.")
@click.option(
    "--hostname", metavar="NAME", multiple=True, help="A host name for the generated certificate."
)
@click.option("--public-url", metavar="URL", help="How clients reach the node.")
@click.option("--public-project", metavar="NAME", multiple=True, help="Everyone may pull from it.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), help="Plain text, or a JSON object a line."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-requests", is_flag=True, help="Write a line for every request.")
@click.option("--drain-timeout", metavar="TIME", help="How long requests may run on at shutdown.")
def serve(config: Path | None, insecure_open: bool, insecure_http: bool, **options: Any) -> None:
    """Serve the images below a directory until interrupted.

    On a loopback address the node is open to this machine. On any other it demands TLS and
    accounts: it makes what is missing and prints the administrator's password, once. What the file
    says under `registry:` holds where no flag says otherwise.
    """
    from shipline.server import announcement, logging_to, serve_registry

    section, base = _section(config, options)
    if not section.data:
        raise UsageError("the node has no directory", hint="say --data DIR, or registry.data")

    def tell(line: str) -> None:
        click.echo(announcement(line, section.log), err=True)

    def ready(url: str) -> None:
        tell(f"serving {section.data} on {url}")
        _tell_systemd()

    listen = f"0.0.0.0{section.listen}" if section.listen.startswith(":") else section.listen
    with logging_to(sys.stderr, section.log):
        serve_registry(
            listen,
            Path(section.data),
            section=section,
            ready=ready,
            notify=tell,
            insecure_open=insecure_open,
            insecure_http=insecure_http,
            environ=os.environ,
            base=base,
        )


def _tell_systemd() -> None:
    """The node takes connections (sd_notify(3))."""
    if place := os.environ.get("NOTIFY_SOCKET"):
        address = f"\0{place[1:]}" if place.startswith("@") else place
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service, suppress(OSError):
            service.sendto(b"READY=1", address)


def _section(config: Path | None, options: dict[str, Any]) -> tuple[RegistrySection, Path]:
    """What the file says, overridden by the flags that were given; and the file's directory."""
    from shipline.config import load
    from shipline.server import RegistrySection
    from shipline.units import Duration

    loaded = load(config, Path.cwd(), os.environ)
    found = loaded.registry or RegistrySection()
    if loaded.registry and loaded.file:
        found = _beside(loaded.file.parent, found)
    tls = _changed(
        found.access.tls,
        cert=options["tls_cert"],
        key=options["tls_key"],
        client_ca=options["tls_client_ca"],
        names=options["hostname"],
    )
    access = _changed(
        found.access,
        mode="accounts" if options["accounts"] else None,
        url=options["public_url"],
        public_projects=options["public_project"],
        tls=tls,
    )
    log = _changed(
        found.log,
        format=options["log_format"],
        level=options["log_level"],
        requests=options["log_requests"],
    )
    drain = options["drain_timeout"]
    try:
        drain_timeout = Duration.parse(drain) if drain else None
    except ValueError as error:
        raise UsageError(f"--drain-timeout: {error}") from None
    changed = _changed(
        found,
        listen=options["listen"],
        data=options["data"],
        access=access,
        log=log,
        drain_timeout=drain_timeout,
    )
    return changed, loaded.file.parent if loaded.file else Path.cwd()


def _changed(section: Section, **values: Any) -> Section:
    """The section with the values that are there."""
    changes: dict[str, Any] = {key: value for key, value in values.items() if value}
    return replace(section, **changes)


def _beside(root: Path, section: RegistrySection) -> RegistrySection:
    """Paths of the file are relative to its directory."""

    def placed(path: str) -> str:
        return str(root / path) if path else ""

    tls = section.access.tls
    tls = replace(tls, cert=placed(tls.cert), key=placed(tls.key), client_ca=placed(tls.client_ca))
    hooks = tuple(replace(hook, secret_file=placed(hook.secret_file)) for hook in section.webhooks)
    return replace(
        section,
        data=placed(section.data),
        access=replace(section.access, tls=tls),
        webhooks=hooks,
    )
