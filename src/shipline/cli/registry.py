"""`shipline registry`: run a node, configured by shipline.yaml and flags."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shipline.cli.environment import use_mirrors
from shipline.cli.program import CommandGroup
from shipline.cli.registry_accounts import audit, project, robot, token, user
from shipline.cli.registry_maintenance import (
    check,
    convert,
    gc,
    purge_list,
    repair,
    retention,
    webhook,
)
from shipline.cli.registry_node import directory_option
from shipline.errors import InvalidFlag, MissingFlag
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.server import LogSection, RegistrySection
    from shipline.server.access import AccessSection, TlsSection
    from shipline.server.replication import Replicate
    from shipline.server.upstreams.section import UpstreamSection
    from shipline.telemetry.server_spans import ServerSpans


Section = TypeVar("Section", "RegistrySection", "AccessSection", "TlsSection", "LogSection")
_LISTEN = "127.0.0.1:5000"


@click.command("serve")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="shipline.yaml.")
@click.option("--listen", metavar="ADDRESS:PORT", help=f"Where to listen; default {_LISTEN}.")
@directory_option("The data directory; DIR alone means the same.", kind=click.STRING)
@click.option(
    "--upstream",
    metavar="[MATCH=]URL",
    multiple=True,
    help="Fetch repositories from this registry when they are asked for, as docker.io/*=URL.",
)
@click.option(
    "--role", type=click.Choice(["primary", "edge"]), help="The node's role among regions."
)
@click.option(
    "--insecure-open",
    is_flag=True,
    help="Listen beyond loopback without accounts: anyone may push.",
)
@click.option("--insecure-http", is_flag=True, help="Accounts without TLS, behind a proxy.")
@click.option("--accounts", is_flag=True, help="Require accounts on a loopback address too.")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--tls-client-ca", metavar="FILE", help="CA of required client certificates (PEM).")
@click.option(
    "--hostname", metavar="NAME", multiple=True, help="A host name for the generated certificate."
)
@click.option("--public-url", metavar="URL", help="URL by which clients reach the node.")
@click.option(
    "--public-project", metavar="NAME", multiple=True, help="A project that everyone may pull from."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Plain text, or one JSON object per line.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-requests", is_flag=True, help="Log every request.")
@click.option(
    "--drain-timeout", metavar="TIME", help="Time for running requests to finish at shutdown."
)
def serve(config: Path | None, insecure_open: bool, insecure_http: bool, **options: Any) -> None:
    """Serve a data directory until interrupted.

    On a loopback address the node is open to this machine. On any other it requires TLS and
    accounts: it creates what is missing and prints the administrator's password, once. Flags
    override `registry:` in shipline.yaml.
    """
    from shipline.cli.registry_upstreams import connect_upstreams
    from shipline.server import logging_to, serve_registry, startup_line
    from shipline.telemetry.server_spans import open_server_spans

    section, base = _section(config, options)
    if not section.data:
        raise MissingFlag("no data directory given", hint="pass --data DIR, or set registry.data")

    def print_line(line: str) -> None:
        click.echo(startup_line(line, section.log), err=True)

    def ready(url: str) -> None:
        print_line(f"serving {section.data} on {url}")
        _notify_systemd()

    listen = f"0.0.0.0{section.listen}" if section.listen.startswith(":") else section.listen
    with logging_to(sys.stderr, section.log), ExitStack() as stack:
        spans = open_server_spans(os.environ)
        serve_registry(
            listen,
            Path(section.data),
            section=section,
            ready=ready,
            notify=print_line,
            insecure_open=insecure_open,
            insecure_http=insecure_http,
            environ=os.environ,
            base=base,
            connect=connect_upstreams(os.environ, stack) if section.upstreams else None,
            replicate=_replicate(stack, len(section.replication), spans)
            if section.replication
            else None,
            spans=spans,
        )


def _replicate(stack: ExitStack, polls: int, spans: ServerSpans | None) -> Replicate:
    """Makes replications, whose connections are closed with the stack; as many `polls` wait."""
    from shipline.regions import open_replications
    from shipline.registry import Client

    client = stack.enter_context(Client.of(os.environ, at_once=8 + polls))
    return partial(open_replications, client, socket.gethostname(), spans=spans)


def _notify_systemd() -> None:
    """Tell systemd that the node accepts connections (sd_notify(3))."""
    if socket_name := os.environ.get("NOTIFY_SOCKET"):
        address = f"\0{socket_name[1:]}" if socket_name.startswith("@") else socket_name
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service, suppress(OSError):
            service.sendto(b"READY=1", address)


def _section(config: Path | None, options: dict[str, Any]) -> tuple[RegistrySection, Path]:
    """The section from the file overridden by flags, and the file's directory."""
    from shipline.config import load
    from shipline.server import RegistrySection
    from shipline.units import Duration

    loaded = load(config, Path.cwd(), os.environ)
    use_mirrors(loaded.registry_mirrors)
    section = loaded.registry or RegistrySection()
    if loaded.registry and loaded.file:
        section = _resolve_paths(loaded.file.parent, section)
    tls = _override(
        section.access.tls,
        cert=options["tls_cert"],
        key=options["tls_key"],
        client_ca=options["tls_client_ca"],
        names=options["hostname"],
    )
    access = _override(
        section.access,
        mode="accounts" if options["accounts"] else None,
        url=options["public_url"],
        public_projects=options["public_project"],
        tls=tls,
    )
    log = _override(
        section.log,
        format=options["log_format"],
        level=options["log_level"],
        requests=options["log_requests"],
    )
    drain = options["drain_timeout"]
    try:
        drain_timeout = Duration.parse(drain) if drain else None
    except ValueError as error:
        raise InvalidFlag(f"--drain-timeout: {error}") from None
    changed = _override(
        section,
        role=options["role"],
        listen=options["listen"],
        data=options["data"],
        access=access,
        log=log,
        drain_timeout=drain_timeout,
        upstreams=tuple(map(_upstream, options["upstream"])),
    )
    return changed, loaded.file.parent if loaded.file else Path.cwd()


def _upstream(text: str) -> UpstreamSection:
    from shipline.server.upstreams.section import UpstreamSection

    match, equals, url = text.rpartition("=")
    return UpstreamSection(url, match=match) if equals else UpstreamSection(url)


def _override(section: Section, **values: Any) -> Section:
    """Replace the fields that have a value."""
    changes: dict[str, Any] = {key: value for key, value in values.items() if value}
    return replace(section, **changes)


def _resolve_paths(root: Path, section: RegistrySection) -> RegistrySection:
    """Paths of the file are relative to its directory."""

    def resolved(path: str) -> str:
        return str(root / path) if path else ""

    tls = section.access.tls
    tls = replace(
        tls, cert=resolved(tls.cert), key=resolved(tls.key), client_ca=resolved(tls.client_ca)
    )
    hooks = tuple(
        replace(hook, secret_file=resolved(hook.secret_file)) for hook in section.webhooks
    )
    return replace(
        section,
        data=resolved(section.data),
        access=replace(section.access, tls=tls),
        webhooks=hooks,
        upstreams=tuple(
            replace(upstream, password_file=resolved(upstream.password_file))
            for upstream in section.upstreams
        ),
    )


@click.group("registry", cls=CommandGroup)
def group() -> None:
    """Run a registry node."""


for _command in (
    serve,
    user,
    project,
    robot,
    token,
    audit,
    webhook,
    gc,
    retention,
    purge_list,
    check,
    repair,
    convert,
):
    group.add_command(_command)
