"""gRPC over HTTP/2 on any connection, as client and as server, with threads.

    with connected(pipe) as connection:
        stream = connection.call("/package.Service/Method", {})

A call is a `RpcCall` of messages each way; an error of the other side is raised as RpcError.
Sources: grpc/grpc, doc/PROTOCOL-HTTP2.md; RFC 9113.
"""

from __future__ import annotations

import base64
import binascii
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Protocol
from urllib.parse import quote, unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from msgspec import Struct

from shipline.errors import Cancelled
from shipline.grpc.protobuf import M, decode, encode
from shipline.propagation import traceparent
from shipline.tasks import TaskGroup, check, on_cancel

_LONGEST_HEADERS = 16 << 20  # bytes: an error has the whole Dockerfile in its trailers
_LONGEST_MESSAGE = 64 << 20  # bytes
_WINDOW = 4 << 20  # bytes of a call that may arrive before they are used
_WINDOW_OF_ALL = 64 << 20  # of all calls, so that one does not hold up the others
_BACKLOG = 1 << 20  # bytes that may wait for the writer
_MOST_OUTPUT = 64 << 20  # bytes, with headers and answers to pings
_READ = 256 << 10  # bytes
_CLOSE_S = 2.0  # for what is left to send
_CANCEL = 8  # an error code of HTTP/2

Metadata = Mapping[str, Sequence[str]]
"""The headers of a call, without those of HTTP/2 and gRPC themselves; names are in lower case."""

_Headers = list[tuple[str, str]]


class Code(IntEnum):
    """The status codes of gRPC that are told apart here (doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class RpcError(Exception):
    """A call failed; `details` is an encoded google.rpc.Status, if there is one."""

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class Pipe(Protocol):
    """A connection as bytes; one thread reads, another writes."""

    def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end. Raises OSError."""

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises OSError."""

    def close(self) -> None:
        """End both directions: what waits in `read` or `write` returns or fails. It may be called
        again.
        """


class SocketPipe:
    """A connected socket, with or without TLS."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def read(self, size: int) -> bytes:
        return self._socket.recv(size)

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class RpcCall:
    """A call: one thread sends, one receives, or one does both."""

    def __init__(self, connection: Connection, number: int, metadata: Metadata) -> None:
        self._connection = connection
        self.number = number
        self.metadata = metadata
        self.incoming = _Incoming()

    def send(self, *messages: bytes) -> None:
        """Send messages in one piece; waits while the other side reads none. Raises RpcError once
        the call has ended.
        """
        parts = (part for one in messages for part in (b"\0" + len(one).to_bytes(4), one))
        self._connection.send(self, b"".join(parts))

    def end(self) -> None:
        """Send no more messages."""
        self._connection.end(self)

    def receive(self) -> bytes | None:
        """The next message, None after the last one. Raises RpcError."""
        return self._connection.receive(self)

    @contextmanager
    def on_given_up(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback`, on a thread of its own, if the other side gives the call up or is gone
        while the block runs.
        """
        self._connection.watch(self, callback)
        try:
            yield
        finally:
            self._connection.unwatch(self)

    def request(self, cls: type[M]) -> M:
        """The only message of a call that is answered. Raises RpcError."""
        return decode(cls, self.receive() or b"")

    @property
    def has_more(self) -> bool:
        """Whether a message has arrived that was not received yet."""
        return bool(self.incoming.messages)

    def __iter__(self) -> Iterator[bytes]:
        """The messages that are left. Raises RpcError."""
        while (message := self.receive()) is not None:
            yield message

    def cancel(self) -> None:
        """Give the call up, on both sides."""
        self._connection.cancel(self)


Handler = Callable[[RpcCall], None]
"""Answers a call: it receives and sends, then returns or raises RpcError."""


class _Incoming:
    """What has arrived of a call: messages, and how it ended."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.error: RpcError | None = None
        self.ended = False
        self.waiting = 0  # bytes of `messages`
        self._unacknowledged = 0
        self._buffer = bytearray()
        self._status: RpcError | None = None

    def add(self, data: bytes, size: int) -> None:
        """Add bytes of the body, which have `size` with their padding. Raises RpcError for what is
        no message.
        """
        self._buffer += data
        self._unacknowledged += size
        while len(self._buffer) >= 5:
            size = int.from_bytes(self._buffer[1:5])
            if self._buffer[0]:
                raise RpcError(Code.UNIMPLEMENTED, "compressed messages are not read")
            if size > _LONGEST_MESSAGE:
                raise RpcError(Code.RESOURCE_EXHAUSTED, f"a message has {size} bytes")
            if len(self._buffer) < 5 + size:
                return
            self.messages.append(bytes(self._buffer[5 : 5 + size]))
            self.waiting += size
            del self._buffer[: 5 + size]

    def take(self) -> bytes:
        message = self.messages.popleft()
        self.waiting -= len(message)
        return message

    def acknowledged(self) -> int:
        """The bytes for which more may come now; each is counted once."""
        size = 0
        if self.waiting < _WINDOW:
            size, self._unacknowledged = self._unacknowledged, 0
        return size

    def add_headers(self, headers: _Headers) -> None:
        """The headers or trailers of an answer."""
        fields = dict(headers)
        if (status := fields.get("grpc-status", "")).isdecimal():
            message = unquote(fields.get("grpc-message", ""))
            details = _unpadded(fields.get("grpc-status-details-bin", ""))
            self._status = RpcError(int(status), message, details)
        elif (http := fields.get(":status", "200")) != "200":
            self._status = RpcError(Code.UNKNOWN, f"the answer has HTTP status {http}")

    def finish(self, *, answered: bool) -> None:
        """The body has ended; of an answer, a status tells whether the call succeeded."""
        missing = RpcError(Code.INTERNAL, "the answer ended without a status")
        status = (self._status or missing) if answered else None
        if status is not None and status.code != Code.OK:
            self.error = self.error or status
        self.ended = True

    def fail(self, error: RpcError) -> None:
        if not self.ended:
            self.error = self.error or error


class Connection:
    """One end of an HTTP/2 connection. Calls may be made from any thread; calls from the other end
    are answered by `handlers`, by path in lower case, each on a thread of `group`.
    """

    def __init__(
        self,
        pipe: Pipe,
        group: TaskGroup,
        handlers: Mapping[str, Handler],
        *,
        server: bool,
        authority: str = "localhost",
    ) -> None:
        self._pipe = pipe
        self._group = group
        self._handlers = handlers
        self._server = server
        self._authority = authority
        self._changed = threading.Condition()
        self._output = bytearray()
        self._streams: dict[int, RpcCall] = {}
        self._watched: dict[int, Callable[[], object]] = {}
        self._failure: RpcError | None = None
        self._closing = False
        self._written = False  # all that there was to send
        self._heard = time.monotonic()
        config = h2.config.H2Configuration(client_side=not server, header_encoding=None)
        self._http = h2.connection.H2Connection(config)
        settings = h2.settings.SettingCodes
        self._http.local_settings = h2.settings.Settings(
            client=not server,
            initial_values={
                settings.ENABLE_PUSH: 0,
                settings.INITIAL_WINDOW_SIZE: _WINDOW,
                settings.MAX_HEADER_LIST_SIZE: _LONGEST_HEADERS,
            },
        )
        self._http.decoder.max_header_list_size = _LONGEST_HEADERS
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW_OF_ALL)
        self._output += self._http.data_to_send()

    @property
    def is_open(self) -> bool:
        """Whether calls can be made: nothing has broken the connection."""
        return self._failure is None

    @property
    def silent_s(self) -> float:
        """For how many seconds nothing has come from the other end."""
        return time.monotonic() - self._heard

    def fail(self, problem: str) -> None:
        """Give the connection up: every call on it fails with `problem`."""
        self._fail(problem)
        self._pipe.close()

    def wait_until_closed(self, timeout_s: float | None = None) -> bool:
        """Wait until the other end is gone; whether it is."""
        with on_cancel(self._wake), self._changed:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            while self._failure is None:
                check()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def watch(self, stream: RpcCall, callback: Callable[[], object]) -> None:
        with self._changed:
            self._watched[stream.number] = callback
            if self._failure is not None or stream.number not in self._streams:
                self._give_up(stream.number)

    def unwatch(self, stream: RpcCall) -> None:
        with self._changed:
            self._watched.pop(stream.number, None)

    def call(self, path: str, metadata: Metadata) -> RpcCall:
        """Start a call of `/package.Service/Method`. Raises RpcError."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *((name, value) for name, values in metadata.items() for value in values),
        ]
        if span := traceparent():
            headers.append(("traceparent", span))
        with self._changed, _protocol_errors():
            self._check_open()
            stream = RpcCall(self, self._http.get_next_available_stream_id(), metadata)
            self._http.send_headers(stream.number, headers)
            self._streams[stream.number] = stream
            self._flush()
        return stream

    def ask(self, path: str, request: Struct, cls: type[M], metadata: Metadata | None = None) -> M:
        """The answer to one request. Raises RpcError."""
        with self.called(path, request, metadata) as stream:
            answer = stream.receive()
            if answer is None or stream.receive() is not None:
                raise RpcError(Code.INTERNAL, f"{path} has not one answer")
            return decode(cls, answer)

    @contextmanager
    def called(
        self, path: str, request: Struct, metadata: Metadata | None = None
    ) -> Iterator[RpcCall]:
        """A call with one request, which an exception in the block gives up."""
        stream = self.call(path, metadata or {})
        try:
            try:
                stream.send(encode(request))
            except RpcError:
                if not stream.incoming.ended:  # what is answered without the request needs none
                    raise
            stream.end()
            yield stream
        except BaseException:
            stream.cancel()
            raise

    def send(self, stream: RpcCall, data: bytes) -> None:
        rest = memoryview(data)
        with on_cancel(self._wake), self._changed, _protocol_errors():
            while rest:
                self._check_sending(stream)
                window = self._http.local_flow_control_window(stream.number)
                size = min(window, self._http.max_outbound_frame_size, len(rest))
                if size <= 0 or len(self._output) > _BACKLOG:
                    self._changed.wait()
                    continue
                self._http.send_data(stream.number, bytes(rest[:size]))
                rest = rest[size:]
                self._flush()

    def end(self, stream: RpcCall) -> None:
        with self._changed, suppress(h2.exceptions.ProtocolError):
            self._http.end_stream(stream.number)
            self._flush()

    def receive(self, stream: RpcCall) -> bytes | None:
        incoming = stream.incoming
        with on_cancel(self._wake), self._changed:
            while not incoming.messages:
                check()  # an interruption may have ended the call as well
                if incoming.error is not None:
                    raise incoming.error
                if incoming.ended:
                    return None
                self._changed.wait()
            message = incoming.take()
            self._acknowledge(stream)
        return message

    def cancel(self, stream: RpcCall) -> None:
        with self._changed:
            stream.incoming.fail(RpcError(Code.CANCELLED, "the call was cancelled"))
            with suppress(h2.exceptions.ProtocolError):
                self._http.reset_stream(stream.number, _CANCEL)
            self._drop(stream)

    def close(self) -> None:
        """End every call and the connection, after what was sent has left."""
        with self._changed:
            with suppress(h2.exceptions.ProtocolError):
                self._http.close_connection()
            self._closing = True
            self._flush()
            self._changed.wait_for(lambda: self._written, _CLOSE_S)
        self._pipe.close()

    def read(self) -> None:
        """Take in what the other end sends, until the connection ends."""
        try:
            while data := self._pipe.read(_READ):
                if data.startswith(b"HTTP/1."):  # to HTTP/2 it is a part of a frame
                    line = data.split(b"\r\n")[0].decode(errors="replace")
                    raise ConnectionError(f"it does not speak HTTP/2: {line}")
                self._heard = time.monotonic()
                with self._changed:
                    for event in self._http.receive_data(data):
                        self._take(event)
                    self._flush()
                    if len(self._output) > _MOST_OUTPUT:
                        raise ConnectionError("it sends, and reads no answers")
            problem = "the connection was closed"
        except (OSError, h2.exceptions.ProtocolError) as error:
            problem = str(error) or type(error).__name__
        self._fail(problem)

    def write(self) -> None:
        """Send what is to be sent, until the connection ends."""
        try:
            while data := self._next_output():
                self._pipe.write(data)
        except OSError as error:
            self._fail(error.strerror or str(error))
        finally:
            with self._changed:
                self._written = True
                self._changed.notify_all()
            self._pipe.close()

    def _next_output(self) -> bytes:
        with self._changed:
            while not self._output and not self._closing and self._failure is None:
                self._changed.wait()
            data = bytes(self._output)
            self._output.clear()
            self._changed.notify_all()
            return data

    def _flush(self) -> None:
        """Hand what HTTP/2 has to send to the writer, and wake whoever waits."""
        self._output += self._http.data_to_send()
        self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, problem: str) -> None:
        with self._changed:
            self._failure = self._failure or RpcError(Code.UNAVAILABLE, problem)
            for stream in self._streams.values():
                stream.incoming.fail(self._failure)
            for number in list(self._watched):
                self._give_up(number)
            self._changed.notify_all()

    def _check_open(self) -> None:
        check()
        if self._failure is not None:
            raise self._failure

    def _check_sending(self, stream: RpcCall) -> None:
        self._check_open()
        if stream.incoming.error is not None:
            raise stream.incoming.error
        if stream.number not in self._streams:
            raise RpcError(Code.CANCELLED, "the call has ended")

    def _acknowledge(self, stream: RpcCall) -> None:
        """Let the other end send on."""
        if size := stream.incoming.acknowledged():
            with suppress(h2.exceptions.ProtocolError):
                self._http.acknowledge_received_data(size, stream.number)
            self._flush()

    def _drop(self, stream: RpcCall) -> None:
        """Forget a call that has ended on both sides."""
        self._streams.pop(stream.number, None)
        self._flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._start_answer(event.stream_id, _text(event.headers))
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                if stream := self._streams.get(event.stream_id):
                    stream.incoming.add_headers(_text(event.headers))
            case h2.events.DataReceived():
                self._take_data(event)
            case h2.events.StreamEnded():
                if stream := self._streams.get(event.stream_id):
                    stream.incoming.finish(answered=not self._server)
                    if not self._server:
                        self._drop(stream)
            case h2.events.StreamReset():
                if stream := self._streams.get(event.stream_id):
                    code = Code.CANCELLED if event.error_code == _CANCEL else Code.UNAVAILABLE
                    stream.incoming.fail(RpcError(code, "the other side gave the call up"))
                    self._give_up(event.stream_id)
                    self._drop(stream)
            case h2.events.ConnectionTerminated() if event.error_code:
                reason = (event.additional_data or b"").decode(errors="replace")
                self._fail(f"the other side ended the connection: {reason or event.error_code}")

    def _give_up(self, number: int) -> None:
        if callback := self._watched.pop(number, None):
            self._group.start(callback)

    def _take_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is None:
            self._http.acknowledge_received_data(size, event.stream_id)
            return
        try:
            stream.incoming.add(event.data, size)
            self._acknowledge(stream)
        except RpcError as error:
            stream.incoming.fail(error)
            with suppress(h2.exceptions.ProtocolError):
                self._http.reset_stream(stream.number, _CANCEL)
            self._drop(stream)

    def _start_answer(self, number: int, headers: _Headers) -> None:
        metadata: dict[str, list[str]] = {}
        for name, value in headers:
            metadata.setdefault(name, []).append(value)
        path = metadata.get(":path", [""])[0]
        stream = self._streams[number] = RpcCall(self, number, metadata)
        handler = self._handlers.get(path.lower())
        answer = [(":status", "200"), ("content-type", "application/grpc")]
        with suppress(h2.exceptions.ProtocolError):  # it may have been given up already
            self._http.send_headers(number, answer)
        if handler is None:
            self._finish(stream, RpcError(Code.UNIMPLEMENTED, f"there is no method {path}"))
        else:
            self._group.start(self._answer, stream, handler)

    def _answer(self, stream: RpcCall, handler: Handler) -> None:
        status = RpcError(Code.OK, "")
        try:
            handler(stream)
        except RpcError as error:
            status = error
        except Exception as error:
            status = RpcError(Code.UNKNOWN, str(error))
            raise
        except Cancelled:
            status = RpcError(Code.CANCELLED, "interrupted")
            raise
        finally:
            with self._changed:
                self._finish(stream, status)

    def _finish(self, stream: RpcCall, status: RpcError) -> None:
        trailers = [
            ("grpc-status", str(int(status.code))),
            ("grpc-message", quote(status.message, safe=" ")),
        ]
        if status.details:
            details = base64.b64encode(status.details).decode().rstrip("=")
            trailers.append(("grpc-status-details-bin", details))
        with suppress(h2.exceptions.ProtocolError):
            self._http.send_headers(stream.number, trailers, end_stream=True)
        self._drop(stream)


@contextmanager
def connected(
    pipe: Pipe, handlers: Mapping[str, Handler] | None = None, *, authority: str = "localhost"
) -> Iterator[Connection]:
    """A connection over `pipe` inside the block, which closes it: that of a client, or with
    `handlers` of a server. An error that a handler raises, other than RpcError, ends the block.
    """
    lower = {path.lower(): handler for path, handler in (handlers or {}).items()}
    with TaskGroup() as group:
        connection = Connection(
            pipe, group, lower, server=handlers is not None, authority=authority
        )
        group.start(connection.read)
        group.start(connection.write)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def _protocol_errors() -> Iterator[None]:
    try:
        yield
    except h2.exceptions.ProtocolError as error:
        raise RpcError(Code.UNAVAILABLE, str(error) or type(error).__name__) from None


def _text(headers: Sequence[tuple[bytes, bytes]]) -> _Headers:
    return [
        (name.decode(errors="replace"), value.decode(errors="replace")) for name, value in headers
    ]


def _unpadded(value: str) -> bytes:
    """Binary metadata: base64, mostly without its padding."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return b""
