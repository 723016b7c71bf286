"""HTTP/1.1 over connections with one request at a time, every wait interruptible.

Import it when the first request is made. Failures are raised as RegistryError, or Cancelled when
the work was interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import threading
import time
import types
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from shipline.errors import RegistryError
from shipline.registry.connection_errors import NameNotResolved, translate_errors
from shipline.registry.errors import InvalidResponse
from shipline.registry.hosts import AddressPolicy, HostSettings, lookup_name
from shipline.registry.request import Origin, Url
from shipline.registry.response import ReceivedResponse
from shipline.tasks import on_cancel

if TYPE_CHECKING:
    import ssl

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNSAFE_TARGET = re.compile("[^!-~]")


class InterruptibleConnection:
    """Connects to allowed addresses only, without TLS; another thread can abort it."""

    timeout: float
    sock: socket.socket | Any = None  # None until it is connected

    address_policy = AddressPolicy.ANYWHERE
    proxy_headers: Mapping[str, str] = types.MappingProxyType({})  # for a forwarding proxy
    _socket_copy: socket.socket | None = None  # survives the TLS wrapping of `sock`

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    def connect(self) -> None:
        self.sock = self._new_conn()

    def _new_conn(self) -> socket.socket:
        try:
            addresses = socket.getaddrinfo(
                lookup_name(self.host), self.port, type=socket.SOCK_STREAM
            )
        except (socket.gaierror, UnicodeError) as error:
            raise NameNotResolved(str(error)) from error
        last: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            if not self.address_policy.allows(str(address[0])):
                raise address_refused(self.host, str(address[0]))
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.timeout)
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
            self._socket_copy = sock.dup()
            return sock
        raise last or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    @property
    def is_connected(self) -> bool:
        """Whether the server has neither closed the idle connection nor sent anything."""
        if self.sock is None:
            return False
        readable = select.poll()
        readable.register(self.sock, select.POLLIN)
        return not readable.poll(0)

    def abort(self) -> None:
        """Wake any thread waiting on this connection. May be called from any thread."""
        lifeline = self._socket_copy
        if lifeline is not None:
            _shut(lifeline)

    def discard(self) -> None:
        """Close for good."""
        for sock in (self.sock, self._socket_copy):
            if sock is not None:
                sock.close()
        self.sock = self._socket_copy = None


class TlsConnection(InterruptibleConnection):
    """With TLS."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port)
        self._context = context

    def connect(self) -> None:
        self.sock = self._new_conn()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def address_refused(host: str, address: str) -> RegistryError:
    """The error for a host that resolves to an address the request may not connect to."""
    return RegistryError(
        f"the registry points to {host} ({address}), which is not allowed",
        code="address-forbidden",
        host=host,
        hint="token servers and redirects must not lead to internal addresses: check the name in "
        "DNS and the configuration of the registry",
    )


_MAX_IDLE = 16  # connections per origin
_SENDFILE_CHUNK = 4 << 20  # bytes per sendfile(2), so that progress is reported
_READ_CHUNK = 1 << 20  # bytes per read without sendfile(2)
_EARLY_S = 2.0  # for the response of a server that reads no more
_MAX_DRAIN = 64 << 10  # bytes of an unread body to drain for reuse of the connection


class RequestWriter:
    """A request whose head is sent: write the body, then read the response, once. `began` is when
    it was to be sent, of the monotonic clock.
    """

    def __init__(
        self,
        transport: Transport,
        key: _Key,
        connection: InterruptibleConnection,
        method: str,
        url: Url,
        began: float,
    ) -> None:
        self._transport = transport
        self._key = key
        self._connection = connection
        self._method = method
        self.url = url
        self.began = began
        self._chunked = False
        self._chunk_sent = False
        self._closed = False
        self._release: Callable[[], None] = lambda: None

    def _send_head(self, target: str, headers: Mapping[str, str], length: int | None) -> None:
        fields = {"Host": self.url.origin.authority, **headers, **self._connection.proxy_headers}
        if length is None:
            self._chunked = True
            fields["Transfer-Encoding"] = "chunked"
        elif length or self._method in ("POST", "PUT", "PATCH"):
            fields["Content-Length"] = str(length)
        lines = [f"{name}: {value}" for name, value in fields.items()]
        with self._translating():
            if _CONTROL.search("".join(lines)) or _UNSAFE_TARGET.search(target):
                raise ValueError("a header has control characters")
            head = "\r\n".join([f"{self._method} {target} HTTP/1.1", *lines, "", ""])
            self._connection.sock.sendall(head.encode("latin-1"))

    def write(self, data: bytes | memoryview) -> None:
        """Send part of the body, without copying it for chunked framing."""
        if not data:
            return
        with self._translating():
            sock = self._connection.sock
            if self._chunked:
                sock.sendall(b"%s%x\r\n" % (b"\r\n" if self._chunk_sent else b"", len(data)))
                self._chunk_sent = True
            sock.sendall(data)

    def write_file(self, file: BinaryIO, offset: int, end: int, at: Callable[[int], None]) -> None:
        """Send a range of a file, with sendfile(2) unless TLS; `at` receives positions."""
        sock = self._connection.sock
        secure = type(sock) is not socket.socket
        while offset < end:
            if secure:
                data = os.pread(file.fileno(), min(_READ_CHUNK, end - offset), offset)
                self.write(data)
                sent = len(data)
            else:
                with self._translating():
                    sent = sock.sendfile(file, offset, min(_SENDFILE_CHUNK, end - offset))
            if not sent:
                raise RegistryError(
                    "the file was truncated while it was sent",
                    code="file-changed",
                    host=self.url.origin.authority,
                )
            offset += sent
            at(offset)

    def response(self) -> ClientResponse:
        """End the body and wait for the response, whose `close` ends the request."""
        with self._translating():
            if self._chunked:
                # the server may have responded and stopped reading
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._connection.sock.sendall(
                        b"\r\n0\r\n\r\n" if self._chunk_sent else b"0\r\n\r\n"
                    )
            response = ReceivedResponse(self._connection.sock, self._method)
        return ClientResponse(self, response)

    def early_response(self) -> ClientResponse | None:
        """The response of a server that stopped reading, if it sent one."""
        try:
            with self._translating():
                if self._connection.sock is not None:
                    self._connection.sock.settimeout(_EARLY_S)
                response = ReceivedResponse(self._connection.sock, self._method)
                response.will_close = True  # the server would read a request as the missing body
        except RegistryError:
            return None
        return ClientResponse(self, response)

    def on_close(self, release: Callable[[], None]) -> None:
        """Call `release` once, when the request is over."""
        self._release = release

    def close(self, *, reusable: bool = False) -> None:
        """Return the connection to the pool or close it; idempotent."""
        if self._closed:
            return
        self._closed = True
        release, self._release = self._release, lambda: None
        self._transport._release(self._key, self._connection, reusable)
        release()

    def _translating(self) -> _Translating:
        return _Translating(self._connection.abort, self.url.origin)


class _Translating:
    """A block whose failures are RegistryErrors, and which another thread can interrupt."""

    __slots__ = ("_interruptible", "_origin")

    def __init__(self, abort: Callable[[], object], origin: Origin) -> None:
        self._interruptible = on_cancel(abort)
        self._origin = origin

    def __enter__(self) -> None:
        self._interruptible.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._interruptible.__exit__(kind, error, trace)
        if error is not None:
            with translate_errors(self._origin):
                raise error


class ClientResponse:
    """Status, headers, and a body to be read; an `HttpResponse`. `began` is when the request was to
    be sent, of the monotonic clock, `latency_s` the seconds that its head took, those of a new
    connection included.
    """

    def __init__(self, writer: RequestWriter, response: ReceivedResponse) -> None:
        self._writer = writer
        self._response = response
        self._open = True
        self.status = response.status
        self.url = writer.url
        self.began = writer.began
        self.latency_s = time.monotonic() - writer.began

    def header(self, name: str) -> str:
        return ", ".join(self._response.headers.get_all(name) or ())

    def headers(self, name: str) -> list[str]:
        """The values of a header that may be repeated."""
        return self._response.headers.get_all(name) or []

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, empty at the end; a truncated body raises a retriable RegistryError."""
        with self._writer._translating():
            return self._response.read(size)

    def content(self, limit: int) -> bytes:
        data, size = bytearray(), self._response.length or 0  # 0 as well where it is not announced
        while max(size, len(data)) <= limit and (more := self.read(limit + 1 - len(data))):
            data += more
        if max(size, len(data)) > limit:
            host = self.url.origin.authority
            raise InvalidResponse(host, f"the response is larger than {limit} bytes")
        return bytes(data)

    def close(self) -> None:
        """Return the connection to the pool; a long unread body closes it."""
        if not self._open:
            return
        self._open = False
        reusable = False
        try:
            length = self._response.length
            if length is not None and length <= _MAX_DRAIN:
                self.read(length)
            reusable = self._response.is_over and not self._response.will_close
        except Exception:  # the body is not wanted: only the connection is lost
            reusable = False
        finally:
            self._response.close()
            self._writer.close(reusable=reusable)


_Key = tuple[Origin, AddressPolicy]


class Transport:
    """A pool of connections to many origins. Safe to use from any thread."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: dict[_Key, list[InterruptibleConnection]] = {}
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
        address_policy: AddressPolicy = AddressPolicy.ANYWHERE,
        hasty: bool = False,
    ) -> RequestWriter:
        """Send a request head for a body of `length` bytes, None for unknown. A `hasty` one waits
        as for a mirror.
        """
        began = time.monotonic()
        settings = self._settings
        connect_s = settings.mirror_connect_s if hasty else settings.connect_s
        read_s = settings.mirror_read_s if hasty else settings.read_s
        key = (url.origin, address_policy)
        connection = self._acquire(key, connect_s)
        connection.timeout = read_s
        connection.sock.settimeout(read_s)
        writer = RequestWriter(self, key, connection, method, url, began)
        forwarded = url.origin.scheme == "http" and self._settings.proxies.of(url.origin)
        try:
            writer._send_head(str(url) if forwarded else url.target, headers, length)
        except BaseException:
            writer.close()
            raise
        return writer

    def peer(self, origin: Origin) -> str:
        """The address last connected to for `origin`, empty behind a proxy."""
        with self._lock:
            return self._peers.get(origin, "")

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            self._closed = True
            idle = [connection for pool in self._idle.values() for connection in pool]
            self._idle.clear()
        for connection in idle:
            connection.discard()

    def _acquire(self, key: _Key, connect_s: float) -> InterruptibleConnection:
        while True:
            with self._lock:
                idle = self._idle.get(key)
                connection = idle.pop() if idle else None
            if connection is None:
                return self._connect(key, connect_s)
            if connection.is_connected:
                return connection
            connection.discard()

    def _release(self, key: _Key, connection: InterruptibleConnection, reusable: bool) -> None:
        with self._lock:
            idle = self._idle.setdefault(key, [])
            if reusable and not self._closed and len(idle) < _MAX_IDLE:
                idle.append(connection)
                return
        connection.discard()

    def _connect(self, key: _Key, connect_s: float) -> InterruptibleConnection:
        origin, address_policy = key
        proxy = self._settings.proxies.of(origin)
        with translate_errors(origin, urlsplit(proxy).netloc.rpartition("@")[2]):
            connection = (
                self._via_proxy(proxy, key)
                if proxy
                else self._direct_connection(origin, address_policy)
            )
            connection.timeout = connect_s
            try:
                with on_cancel(connection.abort):
                    connection.connect()
                if not proxy:
                    with self._lock:
                        self._peers[origin] = str(connection.sock.getpeername()[0])
            except BaseException:
                connection.discard()
                raise
        return connection

    def _direct_connection(
        self, origin: Origin, address_policy: AddressPolicy
    ) -> InterruptibleConnection:
        connection: InterruptibleConnection
        host = origin.host.rstrip(".")  # certificates and virtual hosts have no final dot
        if origin.scheme == "https":
            connection = TlsConnection(host, origin.port, self._context(origin))
        else:
            connection = InterruptibleConnection(host, origin.port)
        connection.address_policy = address_policy
        return connection

    def _via_proxy(self, text: str, key: _Key) -> InterruptibleConnection:
        origin, address_policy = key
        if re.fullmatch(r"[0-9.]+|.*:.*", origin.host) and not address_policy.allows(origin.host):
            raise address_refused(origin.host, origin.host)
        proxy = urlsplit(text)
        port = proxy.port or (443 if proxy.scheme == "https" else 80)
        at = Origin(proxy.scheme, proxy.hostname or "", port)
        account, has_account, _ = proxy.netloc.rpartition("@")
        basic = b64encode(unquote(account).encode("latin-1")).decode()
        headers = {"proxy-authorization": f"Basic {basic}"} if has_account else {}
        if origin.scheme == "http":
            connection = self._direct_connection(at, AddressPolicy.ANYWHERE)
            connection.proxy_headers = headers
            return connection
        from shipline.registry.tunnel import open_tunnel

        return open_tunnel(at, headers, origin, self._context(origin), self._context(None))

    def _context(self, origin: Origin | None) -> ssl.SSLContext:
        import ssl  # with plain HTTP never needed

        trust = self._settings.trust(origin) if origin else None
        with self._lock:
            context = self._contexts.get(trust)
            if context is None:
                context = ssl.create_default_context()
                context.set_alpn_protocols(["http/1.1"])
                for path in trust.authorities if trust else self._settings.ca:
                    context.load_verify_locations(path)
                if trust and trust.certificate:
                    context.load_cert_chain(trust.certificate, trust.key, password="")
                self._contexts[trust] = context
            return context
