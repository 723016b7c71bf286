"""Connections to BuildKit: over a socket with or without TLS, through the API of a container
engine, or through a program that passes bytes on.

Endpoints are those of buildx: unix:///SOCKET, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT][/SOCKET],
and those of containers and pods, which are reached elsewhere. Source: moby/buildkit,
client/connhelper; the upgrade is RFC 9110, section 7.8.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from tempfile import TemporaryFile
from typing import IO, Protocol, runtime_checkable
from urllib.parse import SplitResult

from msgspec import Struct

from shipline.buildkit.control import Control
from shipline.errors import BuilderError, UsageError
from shipline.grpc.connection import Connection, Pipe, RpcError, SocketPipe, connected
from shipline.net import connect_unix, split_url, without_passwords
from shipline.observe import clean
from shipline.tasks import check, on_cancel, time_limit

CONNECT_S = 20.0

_END_S = 2.0
_PORT = 1234  # of buildkitd, by convention
_STREAM = socket.SOCK_STREAM
_LONGEST_WORDS = 2000  # bytes of what a program says
_LONGEST_HEAD = 16 << 10  # bytes of an HTTP answer
_UPGRADE = (
    b"POST /grpc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class TlsFiles(Struct, frozen=True):
    """Certificates, as paths: of whoever may answer, and our own with its key."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


@contextmanager
def open_buildkit(
    endpoint: str, tls: TlsFiles | None = None, *, timeout_s: float = CONNECT_S
) -> Iterator[Control]:
    """The BuildKit at `endpoint`, inside the block. Raises BuilderError, also for an RpcError that
    leaves the block.
    """
    pipe = open_socket(parse_endpoint(endpoint), tls, timeout_s)
    with open_pipe(pipe, endpoint, timeout_s=timeout_s) as control:
        yield control


def parse_endpoint(text: str) -> SplitResult:
    """The parts of an endpoint. Raises BuilderError for one that leads nowhere."""
    try:
        parts = split_url(text)
    except UsageError:
        raise _no_endpoint(text) from None
    if parts.password is not None:
        raise BuilderError(
            f"the endpoint {without_passwords(text)} has a password, which nothing takes",
            code="builder-endpoint",
            hint="let ssh log in with a key, and buildkitd with certificates",
        )
    names = {
        "unix": parts.path and parts.netloc + parts.path,
        "tcp": parts.hostname,
        "ssh": parts.hostname,
        "docker-container": parts.netloc,
        "kube-pod": parts.netloc,
    }
    if not (name := names.get(parts.scheme)) or name.startswith("-") or parts.port == 0:
        raise _no_endpoint(text)
    return parts


def _no_endpoint(text: str) -> BuilderError:
    return BuilderError(
        f"{without_passwords(text)!r} is not an endpoint of a builder",
        code="builder-endpoint",
        hint="name one as unix:///SOCKET, tcp://HOST:PORT, ssh://HOST, docker-container://NAME or"
        " kube-pod://POD",
    )


@contextmanager
def open_pipe(
    pipe: AbstractContextManager[Pipe], shown: str, *, timeout_s: float = CONNECT_S
) -> Iterator[Control]:
    """The BuildKit at the other end of `pipe`: as `open_buildkit`; errors name it as `shown`, with
    what a program between said.
    """
    with _named(shown), pipe as opened, connected(opened) as found:
        try:
            control = _answering(found, timeout_s)
        except RpcError as error:
            said = opened.said if isinstance(opened, _Speaking) else b""
            text = clean(said.strip().replace(b"\n", b"; "))
            raise RpcError(error.code, ": ".join(filter(None, (error.message, text)))) from None
        yield control


@contextmanager
def open_engine(
    connect: Callable[[], socket.socket], shown: str, *, timeout_s: float = CONNECT_S
) -> Iterator[Control]:
    """The BuildKit inside the container engine that `connect` leads to: as `open_buildkit`; errors
    name it as `shown`.
    """
    with _named(shown), dial_engine(connect, timeout_s) as pipe, connected(pipe) as found:
        yield _answering(found, timeout_s)


@contextmanager
def dial_engine(connect: Callable[[], socket.socket], timeout_s: float) -> Iterator[Pipe]:
    """The bytes to and from the BuildKit inside a container engine. Raises OSError."""
    with connect() as connection:
        with _limited(connection, timeout_s):
            upgraded = _upgrade(SocketPipe(connection))
        if upgraded is not None:
            yield upgraded
            return
    with connect() as connection:
        yield SocketPipe(connection)  # newer engines speak HTTP/2 from the start


def _answering(connection: Connection, timeout_s: float) -> Control:
    """The daemon, which has answered a call: it is no other server, and does not hang."""
    control = Control(connection)
    with time_limit(timeout_s):
        control.version()
    return control


@contextmanager
def _named(endpoint: str) -> Iterator[None]:
    try:
        yield
    except RpcError as error:
        check()  # an interruption breaks the connection, too
        raise BuilderError(
            f"the builder at {endpoint}: {error.message}", code="builder-unreachable"
        ) from None
    except OSError as error:
        check()
        raise BuilderError(
            f"the builder at {endpoint} cannot be reached: {error.strerror or error}",
            code="builder-unreachable",
            hint="see whether it runs there: shipline builder ls",
            retriable=True,
        ) from None


@contextmanager
def open_socket(parts: SplitResult, tls: TlsFiles | None, timeout_s: float) -> Iterator[Pipe]:
    """What an endpoint leads to, with TLS if `tls` is given. Raises OSError, BuilderError."""
    if argv := _program(parts):
        with open_program(argv) as program:
            yield program
        return
    with _socket(parts, timeout_s) as connection:
        if tls is None:
            connection.settimeout(None)
            yield SocketPipe(connection)
            return
        name = tls.server_name or parts.hostname
        with _tls_context(tls).wrap_socket(
            connection, server_hostname=name, do_handshake_on_connect=False
        ) as secured:
            with _limited(secured, timeout_s):
                secured.do_handshake()
            yield SocketPipe(secured)


def _socket(parts: SplitResult, timeout_s: float) -> socket.socket:
    if parts.scheme == "unix":
        return connect_unix(parts.netloc + parts.path, timeout_s)
    found = _connect(parts.hostname or "", parts.port or _PORT, timeout_s)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def _connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """As `socket.create_connection`; an interrupt ends it."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=_STREAM):
        found = socket.socket(family, kind, protocol)
        try:
            with _limited(found, timeout_s):
                found.connect(address)
            return found
        except OSError as error:
            failure = error
            found.close()
        except BaseException:
            found.close()
            raise
    raise failure


@contextmanager
def _limited(connection: socket.socket, timeout_s: float) -> Iterator[None]:
    """The other end is waited for no longer than `timeout_s`; an interrupt ends the wait."""
    connection.settimeout(timeout_s)
    with on_cancel(SocketPipe(connection).close):
        yield
    check()
    connection.settimeout(None)


def _tls_context(tls: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None, password="")
    except (OSError, ssl.SSLError) as error:
        raise BuilderError(
            f"the certificates of the builder cannot be used: {error}", code="builder-certificate"
        ) from None
    context.set_alpn_protocols(["h2"])
    return context


def _program(parts: SplitResult) -> list[str]:
    """The command whose input and output lead to a daemon; empty for sockets."""
    if parts.scheme != "ssh":
        return []
    user = f"{parts.username}@" if parts.username else ""
    port = ["-p", str(parts.port)] if parts.port else []
    address = ["--addr", f"unix://{parts.path}"] if parts.path else []
    return ["ssh", *port, "--", f"{user}{parts.hostname}", "buildctl", *address, "dial-stdio"]


@contextmanager
def open_program(argv: Sequence[str]) -> Iterator[ProgramPipe]:
    """The program, which ends with the block. Raises BuilderError if it is not installed."""
    ours, theirs = socket.socketpair()
    with ours, TemporaryFile() as errors:
        try:
            with theirs:
                fd = theirs.fileno()
                process = subprocess.Popen(argv, stdin=fd, stdout=fd, stderr=errors)
        except FileNotFoundError:
            raise BuilderError(
                f"{argv[0]} is not on the PATH; it connects to this builder",
                code="program-missing",
                hint=f"install {argv[0]}, or name the builder by tcp:// or unix://",
            ) from None
        pipe = ProgramPipe(ours, process, errors)
        with process:
            try:
                with on_cancel(pipe.close):
                    yield pipe
            finally:
                pipe.end()


def _upgrade(pipe: Pipe) -> Pipe | None:
    """The connection in HTTP/2; None if the engine knows no upgrade."""
    pipe.write(_UPGRADE)
    head = b""
    while b"\r\n\r\n" not in head:
        data = pipe.read(4096)
        if not data or len(head) > _LONGEST_HEAD:
            return None
        head += data
    if not head.startswith(b"HTTP/1.1 101 "):
        return None
    return _Begun(pipe, head.partition(b"\r\n\r\n")[2])


@runtime_checkable
class _Speaking(Protocol):
    """A pipe through a program, with the last of what that wrote to its standard error."""

    @property
    def said(self) -> bytes: ...


class ProgramPipe(SocketPipe):
    """The standard input and output of a program, which are one socket: both end at once. It writes
    its errors to a file.
    """

    def __init__(
        self, connection: socket.socket, process: subprocess.Popen[bytes], errors: IO[bytes]
    ) -> None:
        super().__init__(connection)
        self._process, self._errors = process, errors

    def wait(self, timeout_s: float) -> int | None:
        """How the program has ended; None if it runs on."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    @property
    def said(self) -> bytes:
        """The last of what the program wrote to its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), _LONGEST_WORDS, max(0, size - _LONGEST_WORDS))

    def end(self) -> None:
        """End the program: with its input, or else by a signal."""
        self.close()
        if self.wait(_END_S) is None:
            self._process.terminate()


class _Begun:
    """A pipe of which some bytes have been read already."""

    def __init__(self, pipe: Pipe, received: bytes) -> None:
        self._pipe = pipe
        self._received = received
        self.write = pipe.write
        self.close = pipe.close

    def read(self, size: int) -> bytes:
        if self._received:
            data, self._received = self._received[:size], self._received[size:]
            return data
        return self._pipe.read(size)
