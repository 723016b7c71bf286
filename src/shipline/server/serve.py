"""A registry node from its first moment to its last."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from shipline.errors import Cancelled
from shipline.server.access import AccessControl, ProjectUsage, check_entrance, open_entrance
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

    Requests that run are answered first, for as long as the section's drain-timeout allows, unless
    a second signal comes. Port 0 takes a free one. `ready` is called with the node's URL once
    connections are taken, `notify` with each line that the person who starts the node must see (a
    first password, once). On an address that other machines can reach the node demands TLS and
    accounts; `insecure_open` and `insecure_http` say otherwise. `environ` holds the secrets that
    the section names, and the paths of its keys are relative to `base`. Raises UsageError for an
    address that is taken and for a directory that another process serves, ConfigError for a secret
    or key that is not there.
    """
    from shipline.server.front import open_listener, parse_address, url_of

    section = section or RegistrySection()
    address = parse_address(listen)
    host = str(address[0])
    check_entrance(section.access, host, insecure_open=insecure_open)
    with ExitStack() as stack:
        storage = stack.enter_context(closing(Storage(data, metadata=section.metadata)))
        uploads = Uploads(storage, largest=_largest(section.limits))
        stack.enter_context(closing(uploads))
        listener = stack.enter_context(closing(open_listener(address)))
        uploads.recover()
        uploads.expire(section.limits.upload_expiry.seconds)
        entrance = stack.enter_context(
            open_entrance(
                data,
                host,
                section.access,
                insecure_open=insecure_open,
                insecure_http=insecure_http,
                holdings=ProjectUsage(storage.usages, partial(size_limit, section.policy.quotas)),
            )
        )
        assembly = Assembly.of(storage, uploads, entrance, section, environ or {}, base)
        for line in (*entrance.notices, *_doubts(section, entrance)):
            notify(line)
        url = url_of(listener, tls=entrance.certificates is not None)
        _serve(assembly, listener, section, entrance, lambda: ready(url))


def _serve(
    assembly: Assembly,
    listener: socket.socket,
    section: RegistrySection,
    entrance: AccessControl,
    ready: Callable[[], None],
) -> None:
    """Run everything that has a thread, until the server in front has ended."""
    from shipline.server.front import run

    stopping = assembly.health.stopping
    with TaskGroup() as group:
        try:
            group.start(_expire, assembly.node.uploads, section.limits.upload_expiry.seconds)
            assembly.start(group)
            run(
                make_app(assembly.node),
                listener,
                section,
                entrance,
                group,
                ready=ready,
                stopping=stopping.set,
            )
        finally:
            stopping.set()
            group.scope.cancel()


def _doubts(section: RegistrySection, entrance: AccessControl) -> Iterator[str]:
    """What the person who starts the node may not have meant."""
    if section.policy.signatures and not entrance.guard.accounts:
        yield (
            "policy.signatures holds for everyone: without accounts nobody can read, and so sign, "
            "what is not signed yet"
        )


def _expire(uploads: Uploads, age_s: float) -> None:
    try:
        while True:
            sleep(min(_EXPIRE_EVERY_S, max(age_s, 1.0)))
            uploads.expire(age_s)
    except Cancelled:
        return


def _largest(limits: LimitsSection) -> int | None:
    return None if limits.blob_size is None else limits.blob_size.bytes
