"""A loopback proxy before one server, that breaks what passes through it as it is told.

    with FaultProxy(port) as proxy:
        proxy.break_next(CutRequest(after=1 << 20), method="PUT")
        ...
    assert proxy.seen("PUT") == 2

Each connection carries one request. Threads here belong to the test, not to the program.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_BLOCK = 64 << 10


@dataclass(frozen=True)
class Answer:
    """Say this instead of the server, after `after` bytes of the request's body."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    after: int = 0


@dataclass(frozen=True)
class CutRequest:
    """Reset both connections after `after` bytes of the request's body were passed on."""

    after: int


@dataclass(frozen=True)
class CutResponse:
    """Close the connection after `after` bytes of the response's body."""

    after: int


@dataclass(frozen=True)
class LoseResponse:
    """Pass all of the request, let the server do it, and reset before its response."""


@dataclass(frozen=True)
class Stall:
    """Pass `after` bytes of the response's body, then nothing until the proxy is closed."""

    after: int = 0


@dataclass(frozen=True)
class StallRequest:
    """Pass `after` bytes of the request's body, then read nothing until the proxy is closed; the
    server gives up soon.
    """

    after: int


@dataclass(frozen=True)
class Delay:
    """Pass the request on after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class FlipBit:
    """Change one bit, `at` bytes into the body of the response, or of the request."""

    at: int
    request: bool = False


@dataclass(frozen=True)
class SetHeader:
    """Replace a header of the response."""

    name: str
    value: str


Fault = (
    Answer
    | CutRequest
    | CutResponse
    | LoseResponse
    | Stall
    | StallRequest
    | Delay
    | FlipBit
    | SetHeader
)


@dataclass(frozen=True)
class Seen:
    method: str
    target: str
    headers: dict[str, str]


@dataclass
class _Rule:
    fault: Fault
    method: str
    target: str
    times: int


@dataclass
class _Head:
    first: str
    headers: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def without(self, *names: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.headers if key.lower() not in names]


class FaultProxy:
    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[Seen] = []
        self.uploaded = self.downloaded = 0
        """Bytes of bodies that clients sent, and that they were sent; read them at rest."""

    def break_next(
        self, fault: Fault, *, method: str = "", target: str = "", times: int = 1
    ) -> None:
        """Apply `fault` to the next `times` requests of this method, to this pattern."""
        with self._lock:
            self._rules.append(_Rule(fault, method, target, times))

    def forget(self) -> None:
        """From here on break nothing."""
        with self._lock:
            self._rules.clear()

    def seen(self, method: str, target: str = "") -> list[Seen]:
        with self._lock:
            return [
                one
                for one in self.requests
                if one.method == method and re.search(target, one.target)
            ]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(30)
        server = socket.create_connection(("127.0.0.1", self._upstream), 30)
        with client, server, suppress(OSError, EOFError):
            stream = _Stream(client)
            head = stream.head()
            fault = self._note(head)
            if isinstance(fault, Answer):
                self._answer(stream, client, head, fault)
                return
            if isinstance(fault, Delay):
                self._closing.wait(fault.seconds)
            sent = self._pass_request(stream, server, head, fault)
            if not sent or isinstance(fault, LoseResponse):
                if isinstance(fault, LoseResponse):
                    server.recv(1)
                _reset(client)
                _reset(server)
                return
            self._pass_response(_Stream(server), client, fault)

    def _count(self, *, uploaded: int = 0, downloaded: int = 0) -> None:
        with self._lock:
            self.uploaded += uploaded
            self.downloaded += downloaded

    def _note(self, head: _Head) -> Fault | None:
        if head.first.count(" ") != 2:
            raise EOFError  # the beginning of a TLS handshake, to see whether we speak it
        method, target, _ = head.first.split(" ")
        with self._lock:
            self.requests.append(
                Seen(method, target, {key.lower(): value for key, value in head.headers})
            )
            for rule in self._rules:
                fits = rule.method in ("", method) and re.search(rule.target, target)
                if rule.times and fits:
                    rule.times -= 1
                    return rule.fault
        return None

    def _answer(self, stream: _Stream, client: socket.socket, head: _Head, fault: Answer) -> None:
        left = fault.after
        for piece in stream.body(head) if left else ():
            left -= len(piece)
            self._count(uploaded=len(piece))
            if left <= 0:
                break
        lines = [f"HTTP/1.1 {fault.status} Told So", f"Content-Length: {len(fault.body)}"]
        lines += [f"{name}: {value}" for name, value in fault.headers]
        text = "\r\n".join([*lines, "Connection: close", "", ""])
        client.sendall(text.encode() + (b"" if head.first.startswith("HEAD") else fault.body))
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        while client.recv(_BLOCK):  # as servers do, so that the answer is not lost to a reset
            pass

    def _pass_request(
        self, stream: _Stream, server: socket.socket, head: _Head, fault: Fault | None
    ) -> bool:
        _send_head(server, head)
        passed = 0
        for piece in stream.body(head):
            self._count(uploaded=len(piece))
            if isinstance(fault, StallRequest) and passed + len(piece) >= fault.after:
                server.sendall(piece[: fault.after - passed])
                self._closing.wait(0.2)
                _reset(server)
                self._closing.wait()
                return False
            if isinstance(fault, CutRequest) and passed + len(piece) >= fault.after:
                server.sendall(piece[: fault.after - passed])
                self._closing.wait(0.1)  # let the server take in what it got
                return False
            if isinstance(fault, FlipBit) and fault.request:
                piece = _flipped(piece, fault.at - passed)
            server.sendall(piece)
            passed += len(piece)
        return not isinstance(fault, CutRequest)

    def _pass_response(self, stream: _Stream, client: socket.socket, fault: Fault | None) -> None:
        head = stream.head()
        if isinstance(fault, SetHeader):
            head.headers = [*head.without(fault.name.lower()), (fault.name, fault.value)]
        _send_head(client, head)
        passed = 0
        while piece := stream.read():
            if isinstance(fault, FlipBit) and not fault.request:
                piece = _flipped(piece, fault.at - passed)
            if isinstance(fault, CutResponse | Stall):
                piece = piece[: fault.after - passed]
            client.sendall(piece)
            passed += len(piece)
            self._count(downloaded=len(piece))
            if isinstance(fault, CutResponse | Stall) and passed >= fault.after:
                if isinstance(fault, Stall):
                    self._closing.wait()
                return


class _Stream:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""

    def read(self) -> bytes:
        held, self._held = self._held, b""
        return held or self._sock.recv(_BLOCK)

    def head(self) -> _Head:
        while b"\r\n\r\n" not in self._held:
            more = self._sock.recv(_BLOCK)
            if not more:
                raise EOFError
            self._held += more
        text, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        return _Head(
            first, [(key, value.strip()) for key, _, value in (s.partition(":") for s in lines)]
        )

    def body(self, head: _Head) -> Iterator[bytes]:
        """The body as it is on the wire, its framing included."""
        if "chunked" in head.get("transfer-encoding"):
            yield from self._chunks()
            return
        left = int(head.get("content-length") or 0)
        while left:
            piece = self.read()
            if not piece:
                raise EOFError
            self._held, piece = piece[left:], piece[:left]
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        size = -1
        while size:
            while b"\r\n" not in self._held:
                self._more()
            size = int(self._held.partition(b"\r\n")[0], 16)
            whole = len(self._held.partition(b"\r\n")[0]) + size + 4
            while len(self._held) < whole:
                self._more()
            piece, self._held = self._held[:whole], self._held[whole:]
            yield piece

    def _more(self) -> None:
        more = self._sock.recv(_BLOCK)
        if not more:
            raise EOFError
        self._held += more


def _send_head(sock: socket.socket, head: _Head) -> None:
    lines = [f"{key}: {value}" for key, value in head.without("connection")]
    sock.sendall("\r\n".join([head.first, *lines, "Connection: close", "", ""]).encode("latin-1"))


def _flipped(piece: bytes, at: int) -> bytes:
    if not 0 <= at < len(piece):
        return piece
    return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]


def _reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
