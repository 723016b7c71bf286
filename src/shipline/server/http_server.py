"""The HTTP server of a node: its listening socket, connections, signals, start and drain.

One event loop on the main thread serves all connections; `exchange` handles what happens on each.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import resource
import signal
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from shipline.errors import UsageError
from shipline.malloc import keep_freed_memory
from shipline.server.access import AccessControl, Certificates, try_renew, watch_certificates
from shipline.server.app import Application
from shipline.server.exchange import AiohttpHandler
from shipline.server.limits import MinimumRate, client_network, shut_down
from shipline.server.metrics import Metrics
from shipline.server.problems import Problem
from shipline.server.section import RegistrySection
from shipline.tasks import TaskGroup, on_cancel

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_BACKLOG = 1024  # connections in the accept queue
_KEEPALIVE_S = 120  # until a peer that answers no keepalive probe is gone
_LINGER_S = 2.0  # after an early response, read on: Go clients lose it otherwise
_DESCRIPTORS = 65_536  # file descriptors
_MAX_LINE, _MAX_FIELD, _MAX_FIELDS = (32 << 10, 16 << 10, 100)  # bytes, bytes, headers
# bytes of a body that aiohttp reads at once, and buffers twice: of a connection, of all
_READ_BUFFER, _MIN_READ_BUFFER, _ALL_READ_BUFFERS = (256 << 10, 16 << 10, 8 << 20)
_KEPT_MEMORY, _ARENAS = 32 << 20, 2  # bytes of each
_SETTLE_S = 0.05
_FINAL_WAIT_S = 5.0  # for handlers whose connections were shut down
Address = tuple[Any, ...]
_HINTS = {
    errno.EADDRINUSE: "the port is in use; port 0 picks a free one",
    errno.EADDRNOTAVAIL: "not an address of this machine; 0.0.0.0 means all of them",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; use a higher one",
}


def parse_address(listen: str) -> Address:
    """The socket address of `host:port`. Raises UsageError if it is malformed or cannot be
    resolved.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(
            f"not an address to listen on: {listen!r}",
            code="listen-address",
            hint="write host:port, like 127.0.0.1:5000",
        )
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"cannot listen on {listen}: {error}", code="listen-address") from None
    address: Address = addresses[0][4]
    return address


def open_listener(address: Address) -> socket.socket:
    """A listening socket. Raises UsageError if the address cannot be bound."""
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _enable_keepalive(listener)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {address[0]}:{address[1]}: {error.strerror}",
            code="listen-address",
            hint=_HINTS.get(error.errno or 0, "use another address"),
        ) from None
    return listener


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """The URL of the listener, for this machine."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(
    app: Application,
    listener: socket.socket,
    section: RegistrySection,
    access_control: AccessControl,
    group: TaskGroup,
    metrics: Metrics,
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, or until the scope is cancelled: then `stopping` is called, no
    new connections are accepted, and running requests are completed. A second signal kills the
    process. On SIGHUP, and when certificate files change, new connections get the new certificate.
    """
    _raise_descriptor_limit()
    keep_freed_memory(_KEPT_MEMORY, arenas=_ARENAS)
    front = HttpServer(app, listener, section, access_control)
    front.add_gauges(metrics)
    asyncio.run(front.serve(group, ready, stopping))


class HttpServer:
    """Serves one listening socket."""

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        section: RegistrySection,
        access_control: AccessControl,
    ) -> None:
        self._listener = listener
        self._section = section
        self._access_control = access_control
        limits = section.limits
        self._minimum_rate = MinimumRate(limits.body_timeout.seconds, limits.body_rate.bytes)
        scheme = "http" if access_control.certificates is None else "https"
        self._handler = AiohttpHandler(app, self._minimum_rate, scheme=scheme)
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._context = _ssl_context(access_control.certificates)

    def add_gauges(self, metrics: Metrics) -> None:
        """Connections, and requests in relation to the threads for them."""
        pools = self._handler.pools
        metrics.gauge("connections", "Open connections.", lambda: len(self._http.connections))
        metrics.gauge(
            "pool_requests", "Requests that run on a thread or wait for one.", pools.users, "pool"
        )
        metrics.gauge("pool_threads", "Threads for requests.", lambda: pools.threads, "pool")

    async def serve(
        self, group: TaskGroup, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(_log_loop_error)
        self._http = _Server(self._handler.handle, self._section, self._set_full)
        call = loop.call_soon_threadsafe

        def reload() -> None:
            call(lambda: loop.create_task(self._reload()))

        watchdog = loop.create_task(self._minimum_rate.run())
        with _signals(partial(call, stop.set), reload), on_cancel(partial(call, stop.set)):
            certificates, renew = self._access_control.certificates, self._access_control.renew
            if certificates and renew:
                group.start(watch_certificates, certificates, renew, reload)
            await self._accept()
            ready()
            await stop.wait()
            stopping()
            await self._drain()
        watchdog.cancel()
        self._handler.pools.close()

    async def _drain(self) -> None:
        """Close idle connections, wait for running requests, then shut the rest down; uploads can
        be resumed.
        """
        self._handler.stopping = True
        self._stop_accepting()
        self._listener.close()
        await self._close_idle()
        if not await self._wait_idle(self._section.drain_timeout.seconds):
            for connection in self._http.connections:
                if connection.transport is not None:
                    shut_down(connection.transport)
            await self._wait_idle(_FINAL_WAIT_S)
        await self._http.shutdown(0.1)

    async def _close_idle(self) -> None:
        """Requests that have just arrived are still answered."""
        idle = [each for each in self._http.connections if each not in self._handler.busy]
        for connection in idle:
            connection.close()  # reads no other request, but leaves the transport open
        await asyncio.sleep(_SETTLE_S)
        for connection in idle:
            if connection.transport is not None and connection not in self._handler.busy:
                connection.transport.close()

    async def _wait_idle(self, seconds: float) -> bool:
        """Wait until no request runs; False after `seconds`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._handler.busy:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _accept(self) -> None:
        handshake_s = self._section.limits.header_timeout.seconds
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._http,
                sock=self._listener.dup(),
                backlog=_BACKLOG,
                ssl=self._context,
                ssl_handshake_timeout=handshake_s if self._context else None,
            )
        finally:
            self._reopening = None

    def _stop_accepting(self) -> None:
        """Stop accepting. Connections accepted a moment ago still need the server, so it is closed
        a little later.
        """
        server, self._server = self._server, None
        if server is not None:
            loop = asyncio.get_running_loop()
            for listener in server.sockets:
                loop.remove_reader(listener)
            loop.call_later(_SETTLE_S, server.close)

    def _set_full(self, full: bool) -> None:
        """At the limit, new connections wait in the kernel's queue."""
        if full:
            self._stop_accepting()
        elif self._server is None and not self._reopening and not self._handler.stopping:
            self._reopening = asyncio.get_running_loop().create_task(self._accept())

    async def _reload(self) -> None:
        """Load new certificates; unreadable ones are logged and ignored."""
        loop, renew = asyncio.get_running_loop(), self._access_control.renew
        if renew is None or not await loop.run_in_executor(None, try_renew, renew):
            return
        try:
            self._context = _ssl_context(renew())
        except (OSError, ValueError) as error:
            _log.error("keeping the current certificate: %s", error)
            return
        if self._server is not None:
            self._stop_accepting()
            await self._accept()


class _Server(web.Server):
    """Counts connections, and closes those above the limit of their address."""

    def __init__(
        self, handler: Any, section: RegistrySection, full: Callable[[bool], None]
    ) -> None:
        limits = section.limits
        super().__init__(handler)
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": limits.header_timeout.seconds,
            "lingering_time": _LINGER_S,
            "logger": _server_logger(),
            "max_field_size": _MAX_FIELD,
            "max_headers": _MAX_FIELDS,
            "max_line_size": _MAX_LINE,
            "tcp_keepalive": False,  # set on the listener
        }
        self._limits, self._proxies = limits, section.access.proxies
        self._set_full = full
        self._counts: Counter[str] = Counter()
        self._addresses: dict[web.RequestHandler, str] = {}
        self._handlers: WeakSet[web.RequestHandler] = WeakSet()  # also while TLS is negotiated

    def __call__(self) -> web.RequestHandler:
        loop, size = asyncio.get_running_loop(), self._read_buffer()
        handler = _RequestHandler(self, loop=loop, read_bufsize=size, **self._options)
        self._handlers.add(handler)
        SSLProtocol.max_size = size  # of the one made next
        return handler

    def _read_buffer(self) -> int:
        """Bytes for a new connection: less of each if there are many."""
        share = _ALL_READ_BUFFERS // (len(self._handlers) + 1)
        return max(_MIN_READ_BUFFER, min(_READ_BUFFER, share))

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        transport.max_size = self._read_buffer()  # type: ignore[attr-defined]  # of asyncio's
        address = self._address_key(transport)
        self._addresses[handler] = address
        self._counts[address] += 1
        if address and self._counts[address] > self._limits.address_connections:
            _log.debug("too many connections", extra={"address": address})
            transport.abort()
        if len(self._addresses) >= self._limits.connections:
            self._set_full(True)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        super().connection_lost(handler, exc)
        address = self._addresses.pop(handler, "")
        self._counts[address] -= 1
        if self._counts[address] <= 0:
            del self._counts[address]
        if len(self._addresses) < self._limits.connections:
            self._set_full(False)

    def _address_key(self, transport: asyncio.Transport) -> str:
        """The network whose connections count together, empty for a trusted proxy."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if any(network.contains(address) for network in self._proxies):
            return ""
        return client_network(address)


class _RequestHandler(web.RequestHandler):
    """Answers malformed requests as the node answers others."""

    __slots__ = ("__weakref__",)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        before = super().handle_error(request, status, exc, message)
        problem = Problem(status, "UNSUPPORTED", " ".join((message or before.reason or "").split()))
        response = web.Response(
            status=status,
            body=problem.body(),
            headers={"content-type": "application/json", "server": "shipline"},
        )
        response.force_close()
        return response


@contextmanager
def _signals(stop: Callable[[], object], reload: Callable[[], object]) -> Iterator[None]:
    """The first signal stops the node, the second kills the process.

    Not loop.add_signal_handler: it loses signals when the wake-up pipe is full.
    """

    def first(*_: object) -> None:
        stop()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, first)
        signal.signal(signal.SIGHUP, lambda *_: reload())
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ssl_context(certificates: Certificates | None) -> ssl.SSLContext | None:
    if certificates is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[
        certificates.minimum
    ]
    context.load_cert_chain(certificates.cert, certificates.key)
    if certificates.client_ca is not None:
        context.load_verify_locations(certificates.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log errors outside of requests, such as failed TLS handshakes or exhausted descriptors."""
    error = context.get("exception")
    quiet = isinstance(error, ssl.SSLError | ConnectionError | TimeoutError)
    _log.log(
        logging.DEBUG if quiet else logging.ERROR,
        context.get("message", "event loop error"),
        exc_info=None if quiet else error,
    )


def _server_logger() -> logging.Logger:
    """aiohttp's log, without complaints about malformed requests."""
    logger = logging.getLogger(f"{__name__}.http")

    def ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

    logger.filters[:] = [ours]
    return logger


def _raise_descriptor_limit() -> None:
    """Raise the soft limit: a download needs three (connection, its duplicate, file)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _enable_keepalive(listener: socket.socket) -> None:
    """Connections inherit these options: one whose peer vanished, or stops reading, ends."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _KEEPALIVE_S // 2),
        (socket.TCP_KEEPINTVL, _KEEPALIVE_S // 8),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _KEEPALIVE_S * 1000),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
