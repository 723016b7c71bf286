"""Redis or Valkey as a cache: GET, SET and DEL over RESP, version 2, with short waits.

https://redis.io/docs/latest/develop/reference/protocol-spec/. A server that fails, is slow or does
not answer as the protocol says is left alone for a while: it makes the caller slower, at most.
"""

from __future__ import annotations

import logging
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

from shipline.errors import ConfigError
from shipline.lru import Lru
from shipline.values import Redacted

if TYPE_CHECKING:
    import ssl

_CONNECT_S, _COMMAND_S = 0.5, 0.25  # the longest waits
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0  # after a failure
_VALUE_LIMIT = 1 << 20  # bytes
_LINE_LIMIT = 4096  # bytes
_MESSAGE_LIMIT = 200  # bytes of an error that are shown
_IDLE = 16  # connections
_PORT = 6379
_OPTIONS = {"ssl_ca_certs": "ca", "ssl_certfile": "certificate", "ssl_keyfile": "key"}
_HINT = (
    "use redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, or"
    " unix://[USER:PASSWORD@]/SOCKET; in a password, #, /, ? and @ are %23, %2F, %3F and %40"
)
_log = logging.getLogger(__name__)


class RedisUrl(Redacted, frozen=True):
    """Where a server is, as redis-cli and redis-py write it. `path` is a Unix socket; `ca`,
    `certificate` and `key` are PEM files.
    """

    hidden: ClassVar = frozenset({"password"})

    host: str = ""
    port: int = _PORT
    path: str = ""
    tls: bool = False
    username: str = ""
    password: str = ""
    database: int = 0
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Raises ConfigError, whose message has no password in it."""
        try:
            parts = urlsplit(text)
            port = parts.port or _PORT
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            unix = parts.scheme == "unix"
            number = query.pop("db", "") or ("" if unix else parts.path.strip("/"))
            files = {_OPTIONS[name]: Path(value) for name, value in query.items()}
            database = int(number or 0)
            if "#" in text:
                raise ValueError("a fragment")
        except (ValueError, KeyError):
            raise _no_url(text) from None
        host, path = parts.hostname or "", unquote(parts.path) if unix else ""
        if parts.scheme not in ("redis", "rediss", "unix") or not (path if unix else host):
            raise _no_url(text)
        return cls(
            "" if unix else host,
            port,
            path,
            parts.scheme == "rediss",
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            database,
            **files,
        )

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.database}"


def _no_url(text: str) -> ConfigError:
    scheme = re.match("[a-z]+://", text)
    shown = f"{scheme[0]}.." if scheme else "it"
    return ConfigError(
        f"{shown} is not a URL of a Redis or Valkey server", code="config-invalid", hint=_HINT
    )


class RedisCache:
    """Values by key. Its methods never raise for what the server does. Safe from any thread."""

    def __init__(self, url: RedisUrl, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: deque[_Connection] = deque()
        self._context: ssl.SSLContext | None = None
        self._resume_at, self._pause_s = 0.0, _FIRST_PAUSE_S
        self._reported = False
        self._undeleted: Lru[str, bool] = Lru(clock=clock)

    def get(self, key: str) -> bytes | None:
        """The value of `key`; None for none, and where the server does not say."""
        if self._undeleted.get(key):
            self.drop(key)
            return None
        reply = self._call(b"GET", key.encode())
        return reply if isinstance(reply, bytes) else None

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Set the value of `key`, as long as the server likes, but not longer than `ttl_s`."""
        milliseconds = b"%d" % int(ttl_s * 1000)
        if self._call(b"SET", key.encode(), value, b"PX", milliseconds) == b"OK":
            self._undeleted.drop(key)

    def drop(self, key: str) -> None:
        """Delete `key`. Where the server does not do that, this object does not return it."""
        if isinstance(self._call(b"DEL", key.encode()), int):
            self._undeleted.drop(key)
        else:
            self._undeleted.put(key, True)

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def _call(self, *words: bytes) -> bytes | int | None:
        """The reply to a command; None for null, an error, and if there is no reply."""
        if self._clock() < self._resume_at:
            return None
        try:
            reply = self._exchange(words)
        except _Refused:
            return None  # memory is full, data is being loaded, a key of another type
        except (OSError, ValueError) as error:
            self._pause(error)
            return None
        self._pause_s = _FIRST_PAUSE_S
        return reply

    def _exchange(self, words: tuple[bytes, ...]) -> bytes | int | None:
        while True:
            try:
                connection, used = self._idle.pop(), True
            except IndexError:
                connection, used = self._connect(), False
            try:
                reply = connection.call(words, _COMMAND_S)
            except _Refused:
                self._release(connection)
                raise
            except TimeoutError:
                connection.close()
                raise
            except (OSError, ValueError):
                connection.close()
                if not used:
                    raise
                continue  # it was idle while the server was restarted
            self._release(connection)
            return reply

    def _release(self, connection: _Connection) -> None:
        if len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self) -> _Connection:
        url = self._url
        connection = _Connection(self._socket())
        try:
            if url.password:
                names = (url.username.encode(),) if url.username else ()
                connection.call((b"AUTH", *names, url.password.encode()), _CONNECT_S)
            if url.database:
                connection.call((b"SELECT", b"%d" % url.database), _CONNECT_S)
            connection.call((b"PING",), _CONNECT_S)
        except _Refused as error:
            connection.close()
            # Redis quotes the arguments of a command that it does not know: AUTH, if renamed
            raise ConnectionError(str(error).partition(", with args")[0]) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _socket(self) -> socket.socket:
        url = self._url
        if url.path:
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(_CONNECT_S)
            try:
                plain.connect(url.path)
            except BaseException:
                plain.close()
                raise
            return plain
        plain = socket.create_connection((url.host, url.port), _CONNECT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not url.tls:
            return plain
        try:
            return self._tls().wrap_socket(plain, server_hostname=url.host)
        except BaseException:
            plain.close()
            raise

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                import ssl

                context = ssl.create_default_context(cafile=self._url.ca)
                if self._url.certificate:
                    context.load_cert_chain(self._url.certificate, self._url.key, password="")
                self._context = context
            return self._context

    def _pause(self, error: Exception) -> None:
        with self._lock:
            first, self._reported = not self._reported, True
            if self._clock() >= self._resume_at:  # else another thread has noted this failure
                self._resume_at = self._clock() + self._pause_s
                self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
        if first:
            _log.warning("the cache %s is left out while it fails: %s", self._url, error)


class _Refused(Exception):
    """An error reply; the connection stays usable."""


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._timeout_s = 0.0

    def _limit(self, timeout_s: float) -> None:
        """Set the longest wait of one call of the system. The kernel keeps it for plain sockets:
        Python would make them non-blocking and poll first, and each such call gives up the GIL.
        """
        if timeout_s == self._timeout_s:
            return
        self._timeout_s = timeout_s
        if type(self._socket) is not socket.socket:  # TLS
            self._socket.settimeout(timeout_s)
            return
        self._socket.settimeout(None)
        interval = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, interval)

    def call(self, words: tuple[bytes, ...], timeout_s: float) -> bytes | int | None:
        """Raises _Refused for an error reply, OSError, and ValueError for one that is none."""
        self._until = time.monotonic() + timeout_s
        self._limit(timeout_s)
        pieces = [b"*%d\r\n" % len(words)]
        pieces += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        try:
            self._socket.sendall(b"".join(pieces))
            return self._reply()
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def _reply(self) -> bytes | int | None:
        kind, line = self._line()
        match kind:
            case b"+":
                return line
            case b":":
                return int(line)
            case b"-":
                text = line[:_MESSAGE_LIMIT].decode("utf-8", "replace")
                raise _Refused("".join(one if one.isprintable() else " " for one in text))
            case b"$":
                return self._bulk(int(line))
        raise ValueError("the server does not speak RESP")

    def close(self) -> None:
        self._socket.close()

    def _line(self) -> tuple[bytes, bytes]:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _LINE_LIMIT:
                raise ValueError("the server does not speak RESP")
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line[:1], line[1:]

    def _bulk(self, size: int) -> bytes | None:
        if size == -1:
            return None
        if not 0 <= size <= _VALUE_LIMIT:
            raise ValueError(f"a value of {size} bytes")
        while len(self._buffer) < size + 2:
            self._receive()
        value, end = bytes(self._buffer[:size]), self._buffer[size : size + 2]
        if end != b"\r\n":
            raise ValueError("the server does not speak RESP")
        del self._buffer[: size + 2]
        return value

    def _receive(self) -> None:
        if time.monotonic() >= self._until:
            raise TimeoutError("timed out")
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
