"""HTTP over urllib3's connections: one exchange at a time, each wait interruptible.

Imports urllib3 and ssl: import it when the first request is made. What goes wrong leaves as
RegistryError, or Cancelled when the work was interrupted.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import ssl
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import BinaryIO
from urllib.parse import unquote

import urllib3.connection
import urllib3.exceptions as foreign
import urllib3.util
from urllib3.connection import ProxyConfig

from shipline.errors import RegistryError
from shipline.registry.hosts import HostSettings
from shipline.registry.origin import Origin, Url
from shipline.registry.reach import Reach
from shipline.registry.troubles import translated
from shipline.tasks import on_cancel

CONNECT_S = 10.0


class Interruptible(urllib3.connection.HTTPConnection):
    """Connects to checked addresses only, and can be broken off by another thread."""

    reach = Reach.ANYWHERE
    login: Mapping[str, str] = types.MappingProxyType({})  # for a proxy that forwards
    _lifeline: socket.socket | None = None  # the same connection, whatever TLS does to `sock`

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            resolution = (
                error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            )
            raise foreign.NameResolutionError(self.host, self, resolution) from error
        last: OSError | None = None
        for family, kind, protocol, _, address in found:
            if not self.reach.allows(str(address[0])):
                raise refused(self.host, str(address[0]))
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(CONNECT_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with on_cancel(lambda sock=sock: _shut(sock)):  # type: ignore[misc]
                    sock.connect(address)
            except OSError as error:
                sock.close()
                last = error
                continue
            except BaseException:
                sock.close()
                raise
            self._lifeline = sock.dup()
            return sock
        raise last or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def abort(self) -> None:
        """Wake whoever waits on this connection. Any thread may call it."""
        lifeline = self._lifeline
        if lifeline is not None:
            _shut(lifeline)

    def answer(self) -> http.client.HTTPResponse:
        return http.client.HTTPConnection.getresponse(self)

    def end(self) -> None:
        """Close. `close` alone is also called before a body is read that ends the connection."""
        self.close()
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None


class PlainConnection(Interruptible):
    """Without TLS."""


class TlsConnection(Interruptible, urllib3.connection.HTTPSConnection):
    """With TLS."""


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def refused(host: str, address: str) -> RegistryError:
    return RegistryError(
        f"refused to follow a registry's word to {host} ({address})",
        host=host,
        hint="the address is internal; if it is meant, name the host in the settings",
    )


READ_S = 60.0
_IDLE = 16  # connections kept per origin
_PIECE = 4 << 20  # bytes per sendfile(2), so that progress is seen
_BLOCK = 1 << 20  # bytes per read where sendfile(2) cannot be used
_DRAINED = 64 << 10  # bytes of an unread body that are read to save the connection


class OpenRequest:
    """A request whose head is sent: write the body, then take the answer, once."""

    def __init__(self, wire: Transport, key: _Key, connection: Interruptible, url: Url) -> None:
        self._wire = wire
        self._key = key
        self._connection = connection
        self.url = url
        self._chunked = False
        self._framed = False
        self._over = False
        self._release: Callable[[], None] = lambda: None

    def _begin(
        self, method: str, target: str, headers: Mapping[str, str], length: int | None
    ) -> None:
        connection = self._connection
        with self._watched():
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in {**headers, **connection.login}.items():
                connection.putheader(name, value)
            if length is None:
                self._chunked = True
                connection.putheader("Transfer-Encoding", "chunked")
            elif length or method in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(length))
            connection.endheaders()

    def write(self, data: bytes | memoryview) -> None:
        """Send a piece of the body. Its bytes are not copied to frame them."""
        if not data:
            return
        with self._watched():
            sock = self._connection.sock
            if self._chunked:
                sock.sendall(b"%s%x\r\n" % (b"\r\n" if self._framed else b"", len(data)))
                self._framed = True
            sock.sendall(data)

    def write_file(self, file: BinaryIO, offset: int, end: int, at: Callable[[int], None]) -> None:
        """Send a part of a file, by sendfile(2) where there is no TLS; `at` gets positions."""
        sock = self._connection.sock
        secure = isinstance(sock, ssl.SSLSocket) or not isinstance(sock, socket.socket)
        while offset < end:
            if secure:
                data = os.pread(file.fileno(), min(_BLOCK, end - offset), offset)
                self.write(data)
                sent = len(data)
            else:
                with self._watched():
                    sent = sock.sendfile(file, offset, min(_PIECE, end - offset))
            if not sent:
                raise RegistryError(
                    "the file became shorter while it was sent", host=self.url.origin.authority
                )
            offset += sent
            at(offset)

    def answer(self) -> Response:
        """End the body and wait for the answer. The exchange is over with its answer's close."""
        with self._watched():
            if self._chunked:
                # an answer may be there already although the server reads no more
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._connection.sock.sendall(
                        b"\r\n0\r\n\r\n" if self._framed else b"0\r\n\r\n"
                    )
            response = self._connection.answer()
        return Response(self, response)

    def early(self) -> Response | None:
        """The answer of a server that stopped reading, if it left one."""
        try:
            with self._watched():
                response = self._connection.answer()
        except RegistryError:
            return None
        return Response(self, response)

    def on_close(self, release: Callable[[], None]) -> None:
        """Call `release` once, when the exchange is over."""
        self._release = release

    def close(self, *, reusable: bool = False) -> None:
        """Give the connection back, or end it; once."""
        if self._over:
            return
        self._over = True
        release, self._release = self._release, lambda: None
        self._wire._give(self._key, self._connection, reusable)
        release()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with translated(self.url.origin), on_cancel(self._connection.abort):
            yield


class Response:
    """Status, headers, and a body to be read; a `failures.Reply`."""

    def __init__(self, exchange: OpenRequest, response: http.client.HTTPResponse) -> None:
        self._exchange = exchange
        self._response = response
        self._open = True
        self.status = response.status
        self.url = exchange.url

    def header(self, name: str) -> str:
        return ", ".join(self._response.headers.get_all(name) or ())

    def headers(self, name: str) -> list[str]:
        return self._response.headers.get_all(name) or []

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, empty at the end; a body cut off raises a retriable RegistryError."""
        with self._exchange._watched():
            data = self._response.read(None if size < 0 else size)
            if not data and size and self._response.length:
                raise http.client.IncompleteRead(b"", self._response.length)
            return data

    def content(self, limit: int) -> bytes:
        data = bytearray()
        while len(data) <= limit and (more := self.read(limit + 1 - len(data))):
            data += more
        if len(data) > limit:
            host = self.url.origin.authority
            raise RegistryError(f"{host}: the answer has more than {limit} bytes", host=host)
        return bytes(data)

    def close(self) -> None:
        """Give the connection back; a long unread body ends it."""
        if not self._open:
            return
        self._open = False
        reusable = False
        try:
            length = self._response.length
            if not self._response.isclosed() and length is not None and length <= _DRAINED:
                self.read(length)
            reusable = self._response.isclosed() and not self._response.will_close
        except Exception:  # nobody wants this body: only the connection is lost
            reusable = False
        finally:
            self._response.close()
            self._exchange.close(reusable=reusable)


_Key = tuple[Origin, Reach]


class Transport:
    """Connections to many origins, kept while they are of use. Safe to use from any thread."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: dict[_Key, list[Interruptible]] = {}
        self._contexts: dict[object, ssl.SSLContext] = {}
        self._peers: dict[Origin, str] = {}
        self._closed = False

    def open(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        *,
        length: int | None = 0,
        reach: Reach = Reach.ANYWHERE,
    ) -> OpenRequest:
        """Send a head that announces `length` bytes of body, None for unknown."""
        key = (url.origin, reach)
        connection = self._take(key)
        exchange = OpenRequest(self, key, connection, url)
        forwarded = url.origin.scheme == "http" and self._settings.proxies.of(url.origin)
        try:
            exchange._begin(method, str(url) if forwarded else url.target, headers, length)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def peer(self, origin: Origin) -> str:
        """The address last connected to for `origin`, empty where a proxy hides it."""
        with self._lock:
            return self._peers.get(origin, "")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = [one for kept in self._idle.values() for one in kept]
            self._idle.clear()
        for connection in idle:
            connection.end()

    def _take(self, key: _Key) -> Interruptible:
        while True:
            with self._lock:
                kept = self._idle.get(key)
                connection = kept.pop() if kept else None
            if connection is None:
                return self._connect(key)
            if connection.is_connected:
                return connection
            connection.end()

    def _give(self, key: _Key, connection: Interruptible, reusable: bool) -> None:
        with self._lock:
            kept = self._idle.setdefault(key, [])
            if reusable and not self._closed and len(kept) < _IDLE:
                kept.append(connection)
                return
        connection.end()

    def _connect(self, key: _Key) -> Interruptible:
        origin, reach = key
        proxy = self._settings.proxies.of(origin)
        with translated(origin, _authority(proxy)):
            connection = self._through(proxy, key) if proxy else self._direct(origin, reach)
            try:
                with on_cancel(connection.abort):
                    connection.connect()
                connection.timeout = READ_S
                connection.sock.settimeout(READ_S)
                if not proxy:
                    with self._lock:
                        self._peers[origin] = str(connection.sock.getpeername()[0])
            except BaseException:
                connection.end()
                raise
        return connection

    def _direct(self, origin: Origin, reach: Reach) -> Interruptible:
        connection: Interruptible
        if origin.scheme == "https":
            connection = TlsConnection(
                origin.host, origin.port, timeout=CONNECT_S, ssl_context=self._context(origin)
            )
        else:
            connection = PlainConnection(origin.host, origin.port, timeout=CONNECT_S)
        connection.reach = reach
        return connection

    def _through(self, text: str, key: _Key) -> Interruptible:
        origin, reach = key
        if re.fullmatch(r"[0-9.]+|.*:.*", origin.host) and not reach.allows(origin.host):
            raise refused(origin.host, origin.host)
        proxy = urllib3.util.parse_url(text)
        host, port = proxy.host or "", proxy.port or (443 if proxy.scheme == "https" else 80)
        login = (
            urllib3.util.make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else {}
        )
        if origin.scheme == "http":
            connection = self._direct(Origin(proxy.scheme or "http", host, port), Reach.ANYWHERE)
            connection.login = login
            return connection
        context = self._context(origin)
        tunnel = TlsConnection(
            host,
            port,
            timeout=CONNECT_S,
            ssl_context=context,
            proxy=proxy,
            proxy_config=ProxyConfig(self._context(None), False, None, None),
        )
        tunnel.set_tunnel(origin.host, origin.port, login, scheme=proxy.scheme or "http")
        return tunnel

    def _context(self, origin: Origin | None) -> ssl.SSLContext:
        trust = self._settings.trust(origin) if origin else None
        with self._lock:
            context = self._contexts.get(trust)
            if context is None:
                context = self._contexts[trust] = ssl.create_default_context()
                for path in trust.authorities if trust else self._settings.ca:
                    context.load_verify_locations(path)
                if trust and trust.certificate:
                    context.load_cert_chain(trust.certificate, trust.key)
            return context


def _authority(proxy: str) -> str:
    """The host and port of a proxy's URL, for messages: without its login."""
    url = urllib3.util.parse_url(proxy)
    return url.netloc or "" if proxy else ""
