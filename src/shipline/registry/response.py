"""Responses of HTTP/1.1 as they come from a socket (RFC 9112).

Not http.client's: it loads ssl and the parser of mails, a twentieth of a small build.
"""

from __future__ import annotations

import io
import math
import re
import socket
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Self

_LEAST_RATE = 1 << 10  # bytes per second of waiting
_MAX_FIELDS, _LONGEST_LINE = 100, 1 << 16  # bytes, as in http.client
_MAX_INTERIM = 10  # responses such as 100 and 103 before the one that counts
_SWITCHING_PROTOCOLS = 101
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_STATUS = re.compile(r"HTTP/1\.([0-9]) +([1-9][0-9][0-9])(?![0-9])")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(;.*)?\r?\n", re.DOTALL)


class MalformedResponse(OSError):
    """What came is no response of HTTP/1.1."""


class ResponseEnded(MalformedResponse):
    """The server closed the connection too early."""


class NoResponse(ResponseEnded):
    """The server closed the connection, and sent nothing."""


class _PacedReader(io.RawIOBase):
    """Reads a response. Raises TimeoutError also for one that trickles: after twice the timeout of
    the socket, what has come must be `_LEAST_RATE` of the time in which it was waited for.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waited_s, self._received = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        began = time.monotonic()
        size = self._sock.recv_into(buffer)
        self._waited_s += time.monotonic() - began
        self._received += size
        grace_s = 2 * (self._sock.gettimeout() or math.inf)
        if self._waited_s > max(grace_s, self._received / _LEAST_RATE):
            raise TimeoutError("the response trickles")
        return size


class Headers:
    """The fields of a response by lower-case names."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    @classmethod
    def read(cls, file: BinaryIO) -> Self:
        """Lines that are no field are left out, and folded ones joined (RFC 9112, 5.2). Raises
        MalformedResponse for lines that are too long, or too many, ResponseEnded for missing ones.
        """
        fields: dict[str, list[str]] = {}
        values: list[str] = []
        for _ in range(_MAX_FIELDS + 1):
            line = _line(file)
            if line in (b"\r\n", b"\n"):
                return cls(fields)
            if not line:
                raise ResponseEnded("the headers are not complete")
            text = line.decode("latin-1")
            if line[0] in b" \t":
                if values:
                    values[-1] = f"{values[-1]} {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            if not colon or not _TOKEN.match(name):
                values = []
                continue
            values = fields.setdefault(name.lower(), [])
            values.append(value.strip(" \t\r\n"))
        raise MalformedResponse(f"got more than {_MAX_FIELDS} headers")

    def get(self, name: str) -> str:
        """The first value, empty without one."""
        return self.get_all(name)[0] if name in self._fields else ""

    def get_all(self, name: str) -> list[str]:
        return self._fields.get(name.lower(), [])


class ReceivedResponse:
    """Status, headers and body. `length` is what is left of the body, None while that is unknown;
    `will_close` says that no other response follows on this connection.
    """

    def __init__(self, sock: socket.socket, method: str) -> None:
        """Read the head of the response to a request with this method."""
        self._file = io.BufferedReader(_PacedReader(sock))
        for _ in range(_MAX_INTERIM + 1):
            version, self.status = self._read_status()
            self.headers = Headers.read(self._file)
            if self.status >= 200 or self.status == _SWITCHING_PROTOCOLS:
                break
        else:
            raise MalformedResponse(f"got more than {_MAX_INTERIM} interim responses")
        self._chunk_left: int | None = None
        self.length: int | None = None
        size = self.headers.get("content-length")
        if method == "HEAD" or self.status in (204, 304) or self.status < 200:
            self.length = 0
        elif self.headers.get("transfer-encoding").lower() == "chunked":
            self._chunk_left = 0
        elif size.isascii() and size.isdecimal():
            self.length = int(size)
        words = self.headers.get("connection").lower()
        stays = "close" not in words if version > "0" else "keep-alive" in words
        self.will_close = not stays or (self.length is None and self._chunk_left is None)

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, by default all, fewer where the body ends, or the connection: what
        comes then raises ResponseEnded.
        """
        if self._chunk_left is not None:
            return self._read_chunks(size)
        if self.length is None:
            data = self._file.read(size)
            if len(data) != size:
                self.length = 0
            return data
        data = self._file.read(self.length if size < 0 else min(size, self.length))
        self.length -= len(data)
        if self.length and size and (size < 0 or not data):
            raise ResponseEnded(f"{self.length} bytes are missing")
        return data

    def close(self) -> None:
        self._file.close()

    def _read_status(self) -> tuple[str, int]:
        """The minor version, and the status."""
        line = _line(self._file).decode("latin-1")
        if not line:
            raise NoResponse("no response")
        if found := _STATUS.match(line):
            return found[1], int(found[2])
        raise MalformedResponse(line)

    def _read_chunks(self, size: int) -> bytes:
        data = bytearray()
        while self.length is None and len(data) != size:
            if not self._chunk_left:
                self._chunk_left = self._read_chunk_size()
                if not self._chunk_left:  # the last one: what follows are trailers
                    Headers.read(self._file)
                    self.length = 0
                    break
            wanted = self._chunk_left if size < 0 else min(self._chunk_left, size - len(data))
            part = self._file.read(wanted)
            data += part
            self._chunk_left -= len(part)
            if len(part) < wanted or (not self._chunk_left and self._file.read(2) != b"\r\n"):
                raise ResponseEnded("a chunk is not complete")
        return bytes(data)

    def _read_chunk_size(self) -> int:
        if found := _CHUNK_SIZE.fullmatch(_line(self._file)):
            return int(found[1], 16)
        raise ResponseEnded("a chunk has no size")


def _line(file: BinaryIO) -> bytes:
    """The next line with its end, empty at the end of the connection."""
    line = file.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise MalformedResponse("got a line that is too long")
    return line
