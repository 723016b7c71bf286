"""Clients that cost as little as clients can: plain sockets, bodies out of the page cache."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BUFFER = 1 << 20  # bytes
_MARK = 16  # bytes at the start of a blob that make it unlike the others


@dataclass(frozen=True)
class Blob:
    """`size` bytes: a mark of its own, then what the file holds behind the mark."""

    file: Path
    mark: bytes
    size: int
    digest: str

    @classmethod
    def make(cls, file: Path, size: int) -> Self:
        """A blob nobody has seen; `file` holds at least `size` bytes."""
        mark = os.urandom(_MARK)
        seen = hashlib.sha256(mark)
        with file.open("rb") as source:
            source.seek(_MARK)
            left = size - _MARK
            while left:
                block = source.read(min(_BUFFER, left))
                seen.update(block)
                left -= len(block)
        return cls(file, mark, size, f"sha256:{seen.hexdigest()}")


class Connection:
    """An HTTP/1.1 connection, just good enough for two registries that behave."""

    def __init__(self, address: str) -> None:
        self._host = address
        self._buffer = bytearray(_BUFFER)
        self._open()

    def push(self, blob: Blob, repository: str) -> None:
        """POST, then PUT with all bytes."""
        status, headers = self._ask(f"POST /v2/{repository}/blobs/uploads/", 0)
        assert status == 202, status
        place = headers["location"].removeprefix(f"http://{self._host}")
        sign = "&" if "?" in place else "?"
        self._send(f"PUT {place}{sign}digest={blob.digest}", blob.size)
        self._socket.sendall(blob.mark)
        with blob.file.open("rb") as source:
            self._socket.sendfile(source, _MARK, blob.size - _MARK)
        status, _ = self._answer()
        assert status == 201, status

    def put(self, path: str, body: bytes, media_type: str) -> None:
        self._send(f"PUT {path}", len(body), f"Content-Type: {media_type}\r\n")
        self._socket.sendall(body)
        status, _ = self._answer()
        assert status == 201, status

    def pull(self, path: str) -> int:
        """GET; returns the number of bytes, which the kernel throws away (MSG_TRUNC, tcp(7))."""
        self._send(f"GET {path}", 0)
        status, headers = self._head()
        assert status == 200, status
        size = left = int(headers["content-length"])
        left -= len(self._reader.read(min(left, len(self._reader.peek()))))
        while left:
            taken = self._socket.recv_into(self._buffer, min(_BUFFER, left), socket.MSG_TRUNC)
            assert taken, "the connection ended early"
            left -= taken
        return size

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _open(self) -> None:
        host, _, port = self._host.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")

    def _ask(self, line: str, length: int) -> tuple[int, dict[str, str]]:
        self._send(line, length)
        return self._answer()

    def _send(self, line: str, length: int, more: str = "") -> None:
        head = f"{line} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {length}\r\n{more}\r\n"
        self._socket.sendall(head.encode())

    def _answer(self) -> tuple[int, dict[str, str]]:
        status, headers = self._head()
        self._reader.read(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
            self._open()
        return status, headers

    def _head(self) -> tuple[int, dict[str, str]]:
        status = int(self._reader.readline().split()[1])
        headers = {}
        while line := self._reader.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    connection = Connection(address)
    try:
        yield connection
    finally:
        connection.close()


def parallel(
    address: str, jobs: Sequence[Callable[[Connection], object]], connections: int
) -> float:
    """Do all jobs over that many connections at once; returns the seconds it took."""

    def work(mine: Sequence[Callable[[Connection], object]]) -> None:
        with connected(address) as connection:
            for job in mine:
                job(connection)

    start = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(work, [jobs[number::connections] for number in range(connections)]))
    return time.monotonic() - start
