"""gRPC over HTTP/2 on one socket, one call at a time (grpc/grpc, PROTOCOL-HTTP2.md).

grpcio is 19 MB and takes 0.1 s to import; h2 is 0.1 MB.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Mapping
from typing import Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from shipline.tasks import on_cancel

_LIMIT = 16 << 20  # bytes of a message
_READ = 1 << 18  # bytes


class GrpcError(Exception):
    """A call ended with a status other than OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


NOT_FOUND, ALREADY_EXISTS, UNAVAILABLE = 5, 6, 14


class Channel:
    """Calls on one connection; `headers` are those of every call."""

    def __init__(self, connection: socket.socket, headers: Mapping[str, str]) -> None:
        self._socket = connection
        self.headers = dict(headers)
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._http.initiate_connection()
        self.flush()

    def unary(self, method: str, request: bytes) -> bytes:
        """The answer to one request. Raises GrpcError, OSError."""
        with self.stream(method) as call:
            call.send(request)
            call.end()
            answer = call.receive()
            call.finish()
        return answer

    def stream(self, method: str) -> Call:
        """A call with any number of messages both ways."""
        return Call(self, self._http, method)

    def flush(self) -> None:
        """Send what the calls have written."""
        if data := self._http.data_to_send():
            self._socket.sendall(data)

    def events(self) -> list[h2.events.Event]:
        """What happened next; waits for it."""
        try:
            with on_cancel(lambda: self._socket.shutdown(socket.SHUT_RDWR)):
                data = self._socket.recv(_READ)
            if not data:
                raise GrpcError(UNAVAILABLE, "the connection was closed")
            found = self._http.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise GrpcError(UNAVAILABLE, f"it does not speak gRPC: {error}") from error
        self.flush()
        return found


class Call:
    """One call; leaving its block ends it, whatever its state."""

    def __init__(
        self, channel: Channel, connection: h2.connection.H2Connection, method: str
    ) -> None:
        self._channel, self._http = channel, connection
        self._id = connection.get_next_available_stream_id()
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._failure: GrpcError | None = None
        headers = {":method": "POST", ":scheme": "http", ":path": f"/{method}",
                   ":authority": "localhost", "te": "trailers",
                   "content-type": "application/grpc", **channel.headers}  # fmt: skip
        connection.send_headers(self._id, list(headers.items()))
        channel.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._ended:
            try:
                self._http.reset_stream(self._id, h2.errors.ErrorCodes.CANCEL)
                self._channel.flush()
            except (h2.exceptions.ProtocolError, OSError):
                pass

    def send(self, message: bytes) -> None:
        """Send a message, as the other side has room for it. Raises GrpcError, OSError."""
        data = memoryview(struct.pack(">BI", 0, len(message)) + message)
        while data and not self._ended:
            room = min(
                self._http.local_flow_control_window(self._id), self._http.max_outbound_frame_size
            )
            if room <= 0:
                self._process()
                continue
            self._http.send_data(self._id, bytes(data[:room]))
            self._channel.flush()
            data = data[room:]
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """No more messages follow."""
        if not self._ended:
            self._http.end_stream(self._id)
            self._channel.flush()

    def receive(self) -> bytes:
        """The next message. Raises GrpcError, also where there is none, and OSError."""
        while not self._messages:
            if self._ended:
                raise self._failure or GrpcError(UNAVAILABLE, "there was no answer")
            self._process()
        return self._messages.popleft()

    def finish(self) -> None:
        """Wait for the status. Raises GrpcError, OSError."""
        while not self._ended:
            self._process()
        if self._failure is not None:
            raise self._failure

    def _process(self) -> None:
        for event in self._channel.events():
            if self._ended or getattr(event, "stream_id", self._id) != self._id:
                continue
            if isinstance(event, h2.events.DataReceived):
                self._take(event)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._note(dict(event.headers or ()))  # type: ignore[arg-type]
            elif isinstance(event, h2.events.StreamEnded):
                self._ended = True
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                self._failure = self._failure or GrpcError(UNAVAILABLE, "the call was broken off")
                self._ended = True

    def _take(self, event: h2.events.DataReceived) -> None:
        self._buffer += event.data or b""
        self._http.acknowledge_received_data(event.flow_controlled_length or 0, self._id)
        self._channel.flush()
        while len(self._buffer) >= 5:
            (size,) = struct.unpack_from(">I", self._buffer, 1)
            if size > _LIMIT or self._buffer[0]:
                raise GrpcError(UNAVAILABLE, "an answer is too large, or compressed")
            if len(self._buffer) < 5 + size:
                return
            self._messages.append(bytes(self._buffer[5 : 5 + size]))
            del self._buffer[: 5 + size]

    def _note(self, headers: Mapping[str, str]) -> None:
        status = headers.get("grpc-status", "0" if headers.get(":status", "200") == "200" else "2")
        if status != "0":
            said = unquote(headers.get("grpc-message", f"HTTP status {headers.get(':status')}"))
            self._failure = GrpcError(int(status), said)
