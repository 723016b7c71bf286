"""Start-up and shutdown of a registry node."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from shipline.errors import Cancelled
from shipline.server.access import AccessControl, ProjectUsage, check_access, open_access_control
from shipline.server.admission.rules import size_limit
from shipline.server.app import make_app
from shipline.server.assembly import Assembly
from shipline.server.section import LimitsSection, RegistrySection
from shipline.server.storage import Storage
from shipline.server.uploads import Uploads
from shipline.tasks import TaskGroup, sleep

_EXPIRE_EVERY_S = 600.0


def serve_registry(
    listen: str,
    data: Path,
    *,
    section: RegistrySection | None = None,
    ready: Callable[[str], None] = lambda url: None,
    notify: Callable[[str], None] = lambda line: None,
    insecure_open: bool = False,
    insecure_http: bool = False,
    environ: Mapping[str, str] | None = None,
    base: Path = Path(),
) -> None:
    """Serve the directory `data` on `listen` (`host:port`) until SIGTERM or SIGINT, or until the
    scope is cancelled. Call it from the main thread.

    At shutdown running requests are completed, for up to the section's drain-timeout; a second
    signal kills the process. Port 0 picks a free one. `ready` is called with the node's URL once it
    accepts connections, `notify` with lines for the operator (such as the initial password). On an
    address that other machines can reach, TLS and accounts are required unless `insecure_open` or
    `insecure_http` is set. `environ` holds the secrets that the section names; paths of keys are
    relative to `base`. Raises UsageError for an address in use and a directory served by another
    process, ConfigError for a missing secret or key.
    """
    from shipline.server.http_server import open_listener, parse_address, url_of

    section = section or RegistrySection()
    address = parse_address(listen)
    host = str(address[0])
    check_access(section.access, host, insecure_open=insecure_open)
    with ExitStack() as stack:
        storage = stack.enter_context(closing(Storage(data, metadata=section.metadata)))
        uploads = Uploads(storage, max_size=_max_blob_size(section.limits))
        stack.enter_context(closing(uploads))
        listener = stack.enter_context(closing(open_listener(address)))
        uploads.recover()
        uploads.expire(section.limits.upload_expiry.seconds)
        access_control = stack.enter_context(
            open_access_control(
                data,
                host,
                section.access,
                insecure_open=insecure_open,
                insecure_http=insecure_http,
                project_usage=ProjectUsage(
                    storage.usages, partial(size_limit, section.policy.quotas)
                ),
            )
        )
        assembly = Assembly.of(storage, uploads, access_control, section, environ or {}, base)
        for line in (*access_control.notices, *_warnings(section, access_control)):
            notify(line)
        url = url_of(listener, tls=access_control.certificates is not None)
        _serve(assembly, listener, section, access_control, lambda: ready(url))


def _serve(
    assembly: Assembly,
    listener: socket.socket,
    section: RegistrySection,
    access_control: AccessControl,
    ready: Callable[[], None],
) -> None:
    """Run the background work and the server until the server ends."""
    from shipline.server.http_server import run

    stopping = assembly.health.stopping
    with TaskGroup() as group:
        try:
            group.start(_expire, assembly.node.uploads, section.limits.upload_expiry.seconds)
            assembly.start(group)
            run(
                make_app(assembly.node),
                listener,
                section,
                access_control,
                group,
                ready=ready,
                stopping=stopping.set,
            )
        finally:
            stopping.set()
            group.scope.cancel()


def _warnings(section: RegistrySection, access_control: AccessControl) -> Iterator[str]:
    """Warnings for the operator."""
    if section.policy.signatures and not access_control.authenticator.accounts:
        yield (
            "policy.signatures applies to everyone: without accounts nobody can pull, and so sign, "
            "an unsigned image"
        )


def _expire(uploads: Uploads, age_s: float) -> None:
    try:
        while True:
            sleep(min(_EXPIRE_EVERY_S, max(age_s, 1.0)))
            uploads.expire(age_s)
    except Cancelled:
        return


def _max_blob_size(limits: LimitsSection) -> int | None:
    return None if limits.blob_size is None else limits.blob_size.bytes
