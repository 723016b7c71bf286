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
from contextlib import suppress
from typing import Any, BinaryIO, Self

_LEAST_RATE = 1 << 10  # bytes per second of waiting
_MAX_FIELDS, _LONGEST_LINE = 100, 1 << 16  # bytes, as in http.client
_MAX_INTERIM = 10  # responses such as 100 and 103 before the one that counts
_SWITCHING_PROTOCOLS = 101
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_STATUS = re.compile(r"HTTP/1\.([0-9]) +([1-9][0-9][0-9])(?![0-9])")
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(;[^\r\n]*)?\r\n")
_FREE, _EXCESS = 16, 16 << 10  # bytes beside the data: of each chunk, and more of all together
_PART = 1 << 20  # bytes read at once: a buffer is as large as what is asked for


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
        self.ended = False  # nothing more is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.ended:
            return None
        began = time.monotonic()
        size = self._sock.recv_into(buffer)
        self._waited_s += time.monotonic() - began
        self._received += size
        grace_s = 2 * (self._sock.gettimeout() or math.inf)
        if self._waited_s > max(grace_s, self._received / _LEAST_RATE):
            raise TimeoutError("the response trickles")
        return size


class Headers:
    """The fields of a response by lower-case names; `odd` if there were lines that are none."""

    __slots__ = ("_fields", "odd")

    def __init__(self, fields: Mapping[str, list[str]], *, odd: bool) -> None:
        self._fields = fields
        self.odd = odd

    @classmethod
    def read(cls, file: BinaryIO) -> Self:
        """Lines that are no field are left out, and folded ones joined (RFC 9112, 5.2). Raises
        MalformedResponse for lines that are too long, or too many, and for what two readers could
        take for different fields; ResponseEnded for missing ones.
        """
        fields: dict[str, list[str]] = {}
        values: list[str] = []
        odd = False
        for _ in range(_MAX_FIELDS + 1):
            line = _line(file)
            if line in (b"\r\n", b"\n"):
                return cls(fields, odd=odd)
            if not line:
                raise ResponseEnded("the headers are not complete")
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
            if "\r" in text or "\0" in text:
                raise MalformedResponse("a header has a control character")
            if line[0] in b" \t":
                odd = True
                if values:
                    values[-1] = f"{values[-1]} {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            if not colon or not _TOKEN.match(name):
                if _TOKEN.match(name.rstrip(" \t")) and colon:
                    raise MalformedResponse("a header has a space before its colon")
                values, odd = [], True
                continue
            values = fields.setdefault(name.lower(), [])
            values.append(value.strip(" \t"))
        raise MalformedResponse(f"got more than {_MAX_FIELDS} headers")

    def get(self, name: str) -> str:
        """The first value, empty without one."""
        return self.get_all(name)[0] if name in self._fields else ""

    def get_all(self, name: str) -> list[str]:
        return self._fields.get(name.lower(), [])


class ReceivedResponse:
    """Status, headers and body. `length` is what is left of the body, None while that is unknown;
    `will_close` says that no other response follows on this connection, or that what follows may be
    of another request: after a response whose end two readers could see in different places.
    """

    def __init__(self, sock: socket.socket, method: str) -> None:
        """Read the head of the response to a request with this method. Raises MalformedResponse."""
        self._source = _PacedReader(sock)
        self._file = io.BufferedReader(self._source)
        for _ in range(_MAX_INTERIM + 1):
            version, self.status = self._read_status()
            self.headers = Headers.read(self._file)
            if self.status >= 200 or self.status == _SWITCHING_PROTOCOLS:
                break
        else:
            raise MalformedResponse(f"got more than {_MAX_INTERIM} interim responses")
        self._chunk_left: int | None = None
        self._excess = 0
        self.length: int | None = None
        encodings, size = self.headers.get_all("transfer-encoding"), _length(self.headers)
        chunked = [one.lower() for one in encodings] == ["chunked"]
        if encodings and not chunked:
            raise MalformedResponse(f"the transfer encoding is {', '.join(encodings)!r:.200}")
        if method == "HEAD" or self.status in (204, 304) or self.status < 200:
            self.length = 0
        elif chunked:
            self._chunk_left = 0
        else:
            self.length = size
        words = ", ".join(self.headers.get_all("connection")).lower()
        stays = "close" not in words if version > "0" else "keep-alive" in words
        unknown = self.length is None and self._chunk_left is None
        odd = self.headers.odd or (chunked and (size is not None or version == "0"))
        self.will_close = not stays or unknown or odd or self.status == _SWITCHING_PROTOCOLS

    @property
    def is_over(self) -> bool:
        """Whether the body was read, and nothing came after it."""
        self._source.ended = True
        return self.length == 0 and not self._file.peek(1)

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
        if size < 0:
            return b"".join(iter(lambda: self.read(_PART), b""))
        data = self._file.read(min(size, self.length))
        self.length -= len(data)
        if self.length and size and not data:
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
                if not self._chunk_left:  # the last one: the body is whole (RFC 9112, 8)
                    with suppress(ResponseEnded):
                        Headers.read(self._file)  # trailers
                    self.length = 0
                    break
            wanted = min(self._chunk_left, _PART if size < 0 else size - len(data))
            part = self._file.read(wanted)
            data += part
            self._chunk_left -= len(part)
            if len(part) < wanted or (not self._chunk_left and self._file.read(2) != b"\r\n"):
                raise ResponseEnded("a chunk is not complete")
        return bytes(data)

    def _read_chunk_size(self) -> int:
        line = _line(self._file)
        found = _CHUNK_SIZE.fullmatch(line)
        if not found:
            raise ResponseEnded("a chunk has no size")
        size = int(found[1], 16)
        self._excess = max(0, self._excess + len(line) - _FREE - size)
        if self._excess > _EXCESS:
            raise MalformedResponse("the chunks have little data")
        return size


def _length(headers: Headers) -> int | None:
    """The length of the body, None if it is not given, or empty as in Harbor's. Raises
    MalformedResponse for lengths that differ, and for what is none (RFC 9112, 6.3).
    """
    fields = ",".join(headers.get_all("content-length")).split(",")
    values = {one.strip(" \t") for one in fields} - {""}
    if not values:
        return None
    if len(values) > 1 or not all(map(_LENGTH.match, values)):
        raise MalformedResponse(f"the content length is {', '.join(sorted(values))!r:.200}")
    return int(values.pop())


def _line(file: BinaryIO) -> bytes:
    """The next line with its end, empty at the end of the connection."""
    line = file.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise MalformedResponse("got a line that is too long")
    return line
