"""A WebSocket, as a client has it: the handshake, and messages on a connection (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_LONGEST = 32 << 20  # bytes of a message
_READ = 256 << 10  # bytes


class Opcode(IntEnum):
    """Kinds of frames, section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def new_key() -> str:
    """A nonce for `Sec-WebSocket-Key`."""
    return base64.b64encode(os.urandom(16)).decode()


def accepted_key(key: str) -> str:
    """The `Sec-WebSocket-Accept` that a server answers to a key with (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def frame(opcode: Opcode, data: bytes) -> bytes:
    """A whole message in a frame of a client, which is masked (section 5.3)."""
    size = len(data)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8)
    mask = os.urandom(4)
    return head + mask + _masked(data, mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    """Every byte XOR one of the mask: as one number, which is a hundred times a loop."""
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(len(data))


class WebSocket:
    """A connection after its handshake: one thread receives, any thread sends."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        self._read = read
        self._write = write
        self._buffer = bytearray()
        self._sending = threading.Lock()

    def send(self, *messages: bytes) -> None:
        """Send binary messages. Raises OSError."""
        self._send(b"".join(frame(Opcode.BINARY, one) for one in messages))

    def close(self) -> None:
        """Say that nothing follows. Raises OSError."""
        self._send(frame(Opcode.CLOSE, (1000).to_bytes(2)))

    def messages(self) -> Iterator[bytes]:
        """The messages of the other side until it closes. Raises OSError, also when the connection
        ends before that or what arrives is not WebSocket.
        """
        message = bytearray()
        while True:
            final, opcode, data = self._next_frame()
            match opcode:
                case Opcode.PING:
                    self._send(frame(Opcode.PONG, data))
                case Opcode.PONG:
                    pass
                case Opcode.CLOSE:
                    if (code := int.from_bytes(data[:2])) not in (0, 1000, 1001, 1005):
                        reason = data[2:].decode(errors="replace") or f"code {code}"
                        raise ConnectionError(f"the server closed the connection: {reason}")
                    return
                case _:
                    message += data
                    if len(message) > _LONGEST:
                        raise ConnectionError("a message of the server is too long")
                    if final:
                        yield bytes(message)
                        message.clear()

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._write(data)

    def _next_frame(self) -> tuple[bool, int, bytes]:
        first, second = self._take(2)
        if first & 0x70 or second & 0x80:
            raise ConnectionError("what the server sends is not WebSocket")
        size = second
        if second == 126:
            size = int.from_bytes(self._take(2))
        elif second == 127:
            size = int.from_bytes(self._take(8))
        if size > _LONGEST:
            raise ConnectionError("a message of the server is too long")
        return bool(first & 0x80), first & 0xF, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._read(_READ)
            if not data:
                raise ConnectionError("the connection was closed")
            self._buffer += data
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found
