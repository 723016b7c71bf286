"""The HTTP server in front of the handlers: granian's WSGI worker as a thread of this process.

One process, so that nothing is left when it is killed, the cache has one owner, and a listening
socket exists before anyone is told about it.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from shipline.server.access import Certificates, Entrance, renewed, watch_certificates
from shipline.server.app import Application
from shipline.server.http import PAUSE, READ, ClientGone, File, Request, Response
from shipline.server.listening import BACKLOG
from shipline.tasks import TaskGroup, on_cancel

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PIECE = 256 << 10  # bytes
_PATIENCE = 64 << 20  # bytes of a refused body that are still taken
Headers = list[tuple[str, str]]
Environ = dict[str, Any]
StartResponse = Callable[[str, Headers], object]
WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]
_TAKEOVER_S = 1.0  # until a new worker takes connections and the old one stops


@dataclass(frozen=True, slots=True)
class Capacity:
    """Connections taken at once, requests in handlers at once, seconds for a request's head (or
    between requests on one connection).
    """

    connections: int = 1024
    requests: int = 256
    header_timeout_s: float = 30.0


def run(
    app: WSGIApplication,
    listener: socket.socket,
    capacity: Capacity,
    entrance: Entrance,
    group: TaskGroup,
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, or until the scope is cancelled: `stopping` is called, no
    connection is taken any more, and requests that run are answered; a second signal ends the
    process. At SIGHUP, and when certificates change, a new worker takes over while the old one ends
    its requests. Each worker closes a descriptor of its own.
    """
    from granian import _granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
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
            stopping()
            listener.close()
            super().signal_handler_interrupt()  # type: ignore[no-untyped-call]
            if signalled:
                for number in _SIGNALS:
                    signal.signal(number, signal.SIG_DFL)

        def _init_shared_socket(self) -> None:
            return None

        def _spawn_worker(self, *arguments: Any, **options: Any) -> Any:
            self._shd = holder(os.dup(listener.fileno()), False, BACKLOG)
            return super()._spawn_worker(*arguments, **options)

        def signal_handler_reload(self, *_: Any, **__: Any) -> None:
            """A worker that cannot read its certificate would take the process with it."""
            if renewed(entrance.renew):
                super().signal_handler_reload()  # type: ignore[no-untyped-call]

    server = Embedded(
        target,
        interface=Interfaces.WSGI,
        blocking_threads=capacity.requests,
        backpressure=capacity.connections,
        backlog=BACKLOG,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(capacity.header_timeout_s * 1000)),
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


def adapted(app: Application) -> WSGIApplication:
    """The application as WSGI (PEP 3333) has it."""

    def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request, source = _request_of(environ), environ.get("wsgi.input")
        steps, data = app(request), None
        try:
            while True:
                step = steps.send(data)  # type: ignore[arg-type]
                data = b""
                if step is READ and source is not None:
                    data = source.read(_PIECE)
                    request.received += len(data)
                    if not data and request.received < (request.content_length or 0):
                        step = steps.throw(ClientGone())
                if step is PAUSE:
                    time.sleep(0.05)
        except StopIteration as stop:
            response: Response = stop.value
        if response.status >= 400 and request.has_body and source is not None:
            _drain(request, source)
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", response.headers)
        if request.method == "HEAD":
            return [b""]
        return _pieces(response.body)

    return wsgi


def _request_of(environ: Environ) -> Request:
    headers = {
        key.removeprefix("HTTP_").replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }
    return Request(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"],
        environ.get("QUERY_STRING") or "",
        headers,
        environ.get("REMOTE_ADDR") or "",
        environ.get("wsgi.url_scheme") or "http",
        (1, 0) if environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/1") else (1, 1),
    )


def _drain(request: Request, source: Any) -> None:
    """Take what the client is still sending, so that it can read a refusal."""
    if (request.header("Expect") or "").lower() == "100-continue" and not request.received:
        return
    with suppress(Exception):
        limit = request.received + _PATIENCE
        while request.received < limit and (data := source.read(_PIECE)):
            request.received += len(data)


def _pieces(body: bytes | File | Iterator[bytes]) -> Iterable[bytes]:
    if isinstance(body, bytes):
        return [body]
    return _file(body) if isinstance(body, File) else body


def _file(part: File) -> Iterator[bytes]:
    with part.path.open("rb") as file:
        file.seek(part.start)
        left = part.size
        while left and (data := file.read(min(left, _PIECE))):
            left -= len(data)
            yield data


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
