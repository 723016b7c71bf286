"""The node's front: where it listens, whom it lets connect, how it starts and stops.

One event loop on the main thread serves all connections; `exchange` is what happens on one of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import re
import resource
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from shipline.errors import UsageError
from shipline.server.access import AccessControl, Certificates, renewed, watch_certificates
from shipline.server.app import Application
from shipline.server.exchange import Conversation
from shipline.server.limits import MinimumRate, cut, near
from shipline.server.section import RegistrySection
from shipline.tasks import TaskGroup, on_cancel

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_BACKLOG = 1024  # connections that wait to be taken
_DEAD_AFTER_S = 120  # a peer that is silent and answers no probe
_LINGER_S = (
    2.0  # what a client still sends after a refusal is read so long, else it loses the answer
)
_FILES = 65_536  # descriptors that the process asks for
_LINE, _FIELD, _FIELDS = 32 << 10, 16 << 10, 100  # bytes of a request's line and header; headers
_BUFFER = 256 << 10  # bytes of a body that wait for their handler
_KEPT = 32 << 20  # bytes of free memory
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SETTLE_S = 0.05
_LAST_S = 5.0  # for handlers to end whose clients were cut off
Address = tuple[Any, ...]
_HINTS = {
    errno.EADDRINUSE: "another program holds the port; port 0 takes a free one",
    errno.EADDRNOTAVAIL: "this machine does not have the address; 0.0.0.0 stands for all it has",
    errno.EACCES: "ports below 1024 are for root and for CAP_NET_BIND_SERVICE; take a higher one",
}


def parse_address(listen: str) -> Address:
    """The socket address of `host:port`. Raises UsageError for what is none."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(
            f"not an address to listen on: {listen!r}", hint="write host:port, like 127.0.0.1:5000"
        )
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"cannot listen on {listen}: {error}") from None
    address: Address = found[0][4]
    return address


def open_listener(address: Address) -> socket.socket:
    """A socket that takes connections. Raises UsageError for an address that is taken."""
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
            f"cannot listen on {address[0]}:{address[1]}: {error.strerror}",
            hint=_HINTS.get(error.errno or 0, "choose another address"),
        ) from None
    return listener


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """How this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(
    app: Application,
    listener: socket.socket,
    section: RegistrySection,
    entrance: AccessControl,
    group: TaskGroup,
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, or until the scope is cancelled: `stopping` is called, no
    connection is taken any more, and requests that run are answered; a second signal ends the
    process. At SIGHUP, and when certificates change, new connections get the new ones.
    """
    _ask_for_descriptors()
    _keep_memory()
    front = Front(app, listener, section, entrance)
    asyncio.run(front.serve(group, ready, stopping))


class Front:
    """The server of one listening socket."""

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        section: RegistrySection,
        entrance: AccessControl,
    ) -> None:
        self._listener = listener
        self._section = section
        self._entrance = entrance
        limits = section.limits
        self._pace = MinimumRate(limits.body_timeout.seconds, limits.body_rate.bytes)
        scheme = "http" if entrance.certificates is None else "https"
        self._conversation = Conversation(app, self._pace, scheme=scheme)
        self._taking: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._context = _context_of(entrance.certificates)

    async def serve(
        self, group: TaskGroup, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(_note)
        self._http = _Server(self._conversation.answer, self._section, self._crowded)
        call = loop.call_soon_threadsafe

        def reload() -> None:
            call(lambda: loop.create_task(self._reload()))

        pace = loop.create_task(self._pace.run())
        with _signals(partial(call, stop.set), reload), on_cancel(partial(call, stop.set)):
            certificates, renew = self._entrance.certificates, self._entrance.renew
            if certificates and renew:
                group.start(watch_certificates, certificates, renew, reload)
            await self._listen()
            ready()
            await stop.wait()
            stopping()
            await self._drain()
        pace.cancel()
        self._conversation.pools.close()

    async def _drain(self) -> None:
        """Idle connections end now, running requests may go on for a while; then clients are cut
        off. Uploads can go on later.
        """
        self._conversation.stopping = True
        self._unlisten()
        self._listener.close()
        for connection in self._http.connections:
            if connection not in self._conversation.busy:
                connection.close()
        if not await self._idle(self._section.drain_timeout.seconds):
            for connection in self._http.connections:
                if connection.transport is not None:
                    cut(connection.transport)
            await self._idle(_LAST_S)
        await self._http.shutdown(0.1)

    async def _idle(self, seconds: float) -> bool:
        """Whether no request runs any more, after at most that time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._conversation.busy:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _listen(self) -> None:
        handshake_s = self._section.limits.header_timeout.seconds
        try:
            self._taking = await asyncio.get_running_loop().create_server(
                self._http,
                sock=self._listener.dup(),
                backlog=_BACKLOG,
                ssl=self._context,
                ssl_handshake_timeout=handshake_s if self._context else None,
            )
        finally:
            self._opening = None

    def _unlisten(self) -> None:
        """Take no more connections. Those that were accepted this moment still need the server that
        is closed then.
        """
        taking, self._taking = self._taking, None
        if taking is not None:
            loop = asyncio.get_running_loop()
            for listener in taking.sockets:
                loop.remove_reader(listener)
            loop.call_later(_SETTLE_S, taking.close)

    def _crowded(self, crowded: bool) -> None:
        """Who comes while there are too many waits in the kernel's queue."""
        if crowded:
            self._unlisten()
        elif self._taking is None and not self._opening and not self._conversation.stopping:
            self._opening = asyncio.get_running_loop().create_task(self._listen())

    async def _reload(self) -> None:
        """Certificates that cannot be read change nothing."""
        loop, renew = asyncio.get_running_loop(), self._entrance.renew
        if renew is None or not await loop.run_in_executor(None, renewed, renew):
            return
        try:
            self._context = _context_of(renew())
        except (OSError, ValueError) as error:
            _log.error("the certificate stays as it is: %s", error)
            return
        if self._taking is not None:
            self._unlisten()
            await self._listen()


class _Server(web.Server):
    """aiohttp's server; counts connections. Those of an address that has too many end at once."""

    def __init__(
        self, handler: Any, section: RegistrySection, crowded: Callable[[bool], None]
    ) -> None:
        limits = section.limits
        super().__init__(
            handler,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=limits.header_timeout.seconds,
            lingering_time=_LINGER_S,
            logger=_server_logger(),
            max_field_size=_FIELD,
            max_headers=_FIELDS,
            max_line_size=_LINE,
            read_bufsize=_BUFFER,
            tcp_keepalive=False,  # the listener has it
        )
        self._limits, self._proxies = limits, section.access.proxies
        self._crowded = crowded
        self._counts: Counter[str] = Counter()
        self._addresses: dict[web.RequestHandler, str] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        address = self._place(transport)
        self._addresses[handler] = address
        self._counts[address] += 1
        if address and self._counts[address] > self._limits.address_connections:
            _log.debug("too many connections", extra={"address": address})
            transport.abort()
        if len(self._addresses) >= self._limits.connections:
            self._crowded(True)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        super().connection_lost(handler, exc)
        address = self._addresses.pop(handler, "")
        self._counts[address] -= 1
        if self._counts[address] <= 0:
            del self._counts[address]
        if len(self._addresses) < self._limits.connections:
            self._crowded(False)

    def _place(self, transport: asyncio.Transport) -> str:
        """Whose connections are counted together, empty for a proxy's."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if any(network.holds(address) for network in self._proxies):
            return ""
        return near(address)


@contextmanager
def _signals(stop: Callable[[], object], reload: Callable[[], object]) -> Iterator[None]:
    """The first signal stops, the second ends the process.

    Not by the loop's own handlers: those lose signals when its wake-up pipe is full.
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


def _context_of(certificates: Certificates | None) -> ssl.SSLContext | None:
    if certificates is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[certificates.minimum]
    context.load_cert_chain(certificates.cert, certificates.key)
    if certificates.client_ca is not None:
        context.load_verify_locations(certificates.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What goes wrong outside of requests: clients that cannot speak TLS, descriptors that ran
    out.
    """
    error = context.get("exception")
    quiet = isinstance(error, ssl.SSLError | ConnectionError | TimeoutError)
    _log.log(
        logging.DEBUG if quiet else logging.ERROR,
        context.get("message", "the event loop failed"),
        exc_info=None if quiet else error,
    )


def _server_logger() -> logging.Logger:
    """aiohttp's log without what clients write that is no HTTP."""
    logger = logging.getLogger(f"{__name__}.http")

    def ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

    logger.filters[:] = [ours]
    return logger


def _ask_for_descriptors() -> None:
    """A reader needs three: connection, copy of it, file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _keep_memory() -> None:
    """Bodies pass through buffers of 256 KiB. Giving their memory back to the kernel each time, and
    having it cleared again, costs as much as hashing what is in them (mallopt(3)).
    """
    with suppress(OSError, AttributeError):  # other C libraries do it their way
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def _notice_dead_peers(listener: socket.socket) -> None:
    """Connections inherit this: one whose peer vanished, or takes nothing, ends by itself."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _DEAD_AFTER_S // 2),
        (socket.TCP_KEEPINTVL, _DEAD_AFTER_S // 8),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _DEAD_AFTER_S * 1000),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
