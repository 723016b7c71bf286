"""A node that listens: granian's WSGI worker as a thread of this process.

One process, so that nothing is left when it is killed, the cache has one owner, and a listening
socket exists before anyone is told about it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from shipline.errors import Cancelled, UsageError
from shipline.server.access import (
    AccessSection,
    Certificates,
    Entrance,
    check_entrance,
    open_entrance,
    renewed,
    watch_certificates,
)
from shipline.server.app import make_app
from shipline.server.http import WSGIApplication
from shipline.server.node import Node
from shipline.server.storage import Storage
from shipline.server.uploads import EXPIRY_S, Uploads
from shipline.tasks import TaskGroup, on_cancel, sleep

THREADS = 256  # requests that may wait for disks or clients at once
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_BACKLOG = 1024  # connections
_EXPIRE_EVERY_S = 600.0
_TAKEOVER_S = 1.0  # until a new worker takes connections and the old one stops
_DEAD_AFTER_S = 120  # a peer that is silent and answers no probe


def serve_registry(
    listen: str,
    data: Path,
    *,
    ready: Callable[[str], None] = lambda url: None,
    notify: Callable[[str], None] = lambda line: None,
    insecure_open: bool = False,
    insecure_http: bool = False,
    access: AccessSection | None = None,
    upload_expiry_s: float = EXPIRY_S,
    threads: int = THREADS,
) -> None:
    """Serve the directory `data` on `listen` (`host:port`) until SIGTERM or SIGINT, or until the
    scope is cancelled; requests that run are answered first, unless a second signal comes. Call it
    from the main thread.

    Port 0 takes a free one. `ready` is called with the node's URL once connections are taken,
    `notify` with each line that the person who starts the node must see (a first password, once).
    On an address that other machines can reach the node demands TLS and accounts; `insecure_open`
    and `insecure_http` say otherwise. Raises UsageError for an address that is taken and for a
    directory that another process serves.
    """
    address = _address(listen)
    section = access or AccessSection()
    check_entrance(section, str(address[0]), insecure_open=insecure_open)
    storage = Storage(data)
    uploads = Uploads(storage)
    with closing(storage), closing(uploads), closing(_listener(listen, address)) as listener:
        uploads.recover()
        uploads.expire(upload_expiry_s)
        opened = open_entrance(
            data,
            str(address[0]),
            section,
            insecure_open=insecure_open,
            insecure_http=insecure_http,
        )
        with opened as entrance, TaskGroup() as group:
            group.start(_expire, uploads, upload_expiry_s)
            try:
                url = _url(listener, entrance.certificates)
                for line in entrance.notices:
                    notify(line)
                node = Node.over(
                    storage,
                    uploads=uploads,
                    guard=entrance.guard,
                    routes=entrance.routes,
                    listeners=entrance.listeners,
                )
                app = make_app(node)
                _run(app, listener, threads, entrance, group, lambda: ready(url))
            finally:
                group.scope.cancel()


def _run(
    app: WSGIApplication,
    listener: socket.socket,
    threads: int,
    entrance: Entrance,
    group: TaskGroup,
    ready: Callable[[], None],
) -> None:
    """Serve until told to stop; at SIGHUP, and when certificates change, a new worker takes over
    while the old one ends its requests. Each worker closes a descriptor of its own.
    """
    from granian import _granian
    from granian.constants import HTTPModes, Interfaces
    from granian.server import MTServer

    holder: Any = _granian.SocketHolder
    target: Any = app

    class Embedded(MTServer):
        """granian offers WSGI inside the process for free-threaded Python; it is as sound with the
        lock, since each request runs under it, on a thread that Python knows.
        """

        def _check_gil(self) -> None:
            return None

        def signal_handler_interrupt(self, *signalled: Any, **_: Any) -> None:
            """A second signal does not wait for the requests that run."""
            super().signal_handler_interrupt()  # type: ignore[no-untyped-call]
            if signalled:
                for number in _SIGNALS:
                    signal.signal(number, signal.SIG_DFL)

        def _init_shared_socket(self) -> None:
            return None

        def _spawn_worker(self, *arguments: Any, **options: Any) -> Any:
            self._shd = holder(os.dup(listener.fileno()), False, _BACKLOG)
            return super()._spawn_worker(*arguments, **options)

        def signal_handler_reload(self, *_: Any, **__: Any) -> None:
            """A worker that cannot read its certificate would take the process with it."""
            if renewed(entrance.renew):
                super().signal_handler_reload()  # type: ignore[no-untyped-call]

    server = Embedded(
        target,
        interface=Interfaces.WSGI,
        blocking_threads=threads,
        backpressure=_BACKLOG,
        backlog=_BACKLOG,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        respawn_interval=_TAKEOVER_S,
        **_tls(entrance.certificates),
    )
    server.on_startup(ready)
    if entrance.certificates and entrance.renew:
        reload = server.signal_handler_reload
        group.start(watch_certificates, entrance.certificates, entrance.renew, reload)
    with _handlers_restored(), on_cancel(server.signal_handler_interrupt):
        server.serve(target_loader=lambda *_: app, wrap_loader=False)


def _tls(certificates: Certificates | None) -> dict[str, Any]:
    """What granian needs to know; it reads the files whenever its worker starts."""
    from granian.constants import SSLProtocols

    if certificates is None:
        return {}
    return {
        "ssl_cert": certificates.cert,
        "ssl_key": certificates.key,
        "ssl_protocol_min": SSLProtocols(f"tls{certificates.minimum}"),
        "ssl_ca": certificates.client_ca,
        "ssl_client_verify": certificates.client_ca is not None,
    }


@contextmanager
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _expire(uploads: Uploads, age_s: float) -> None:
    try:
        while True:
            sleep(min(_EXPIRE_EVERY_S, max(age_s, 1.0)))
            uploads.expire(age_s)
    except Cancelled:
        return


def _address(listen: str) -> tuple[Any, ...]:
    """The socket address. Raises UsageError for what is none."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(
            f"not an address to listen on: {listen!r}", hint="write host:port, like 127.0.0.1:5000"
        )
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"cannot listen on {listen}: {error}") from None
    address: tuple[Any, ...] = found[0][4]
    return address


def _listener(listen: str, address: tuple[Any, ...]) -> socket.socket:
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_dead_peers(listener)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {listen}: {error.strerror}",
            hint="another program may hold the port; port 0 takes a free one",
        ) from None
    return listener


def _notice_dead_peers(listener: socket.socket) -> None:
    """Connections inherit this: one whose peer vanished ends, and its thread is free again."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _DEAD_AFTER_S // 2),
        (socket.TCP_KEEPINTVL, _DEAD_AFTER_S // 8),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _DEAD_AFTER_S * 1000),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)


def _url(listener: socket.socket, certificates: Certificates | None) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if certificates is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
