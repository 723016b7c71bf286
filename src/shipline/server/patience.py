"""How long a client may take to send its request's body.

A handler that waits for bytes occupies a thread, so that a few hundred clients which send nothing
could stop the node. The server in front has no limit for bodies and hands out no sockets; the
kernel counts the bytes of every connection (tcp(7), TCP_INFO). Where handlers have waited too long
for an address, its connections that moved fewer bytes than they must are shut down: the handler
sees the end of the body, and the upload can be resumed.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from shipline.errors import Cancelled
from shipline.server.engine import Environ, StartResponse, WSGIApplication
from shipline.server.listening import connections
from shipline.tasks import sleep

_log = logging.getLogger(__name__)
_TCP_INFO_BYTES = 136
_MOVED = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_MOVED_AT = 120
Peer = tuple[Any, ...]


class Reads:
    """Who is waiting for whose bytes. Safe to use from any thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, float]] = {}

    def watched(self, app: WSGIApplication) -> WSGIApplication:
        """The same application, its reads of bodies seen here."""

        def watching(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            if environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ:
                environ["wsgi.input"] = _Input(environ, self._waiting)
            return app(environ, start_response)

        return watching

    def stuck(self, seconds: float) -> set[str]:
        """Addresses that a handler has waited for that long, in one read."""
        before = time.monotonic() - seconds
        return {address for address, since in tuple(self._waiting.values()) if since <= before}


class _Input:
    """wsgi.input, which tells when somebody waits for it."""

    __slots__ = ("_address", "_inner", "_waiting")

    def __init__(self, environ: Environ, waiting: dict[int, tuple[str, float]]) -> None:
        self._inner = environ["wsgi.input"]
        self._address: str = environ.get("REMOTE_ADDR") or ""
        self._waiting = waiting

    def read(self, size: int = -1) -> bytes:
        self._waiting[id(self)] = (self._address, time.monotonic())
        try:
            data: bytes = self._inner.read(size)
            return data
        finally:
            del self._waiting[id(self)]


def cut_stalled(reads: Reads, port: int, window_s: float, rate: int) -> None:
    """Until cancelled: shut down connections on `port` that move less than `rate` bytes a second
    over `window_s`, where a handler waits for their address.
    """
    began: dict[Peer, tuple[float, int]] = {}
    try:
        while True:
            sleep(window_s / 4)
            stuck = reads.stuck(window_s)
            began = _cut(began, port, stuck, window_s, rate) if reads.stuck(0) else {}
    except Cancelled:
        return


def _cut(
    began: dict[Peer, tuple[float, int]], port: int, stuck: set[str], window_s: float, rate: int
) -> dict[Peer, tuple[float, int]]:
    """Where each connection's window began; those whose window ended too empty are shut down."""
    now = time.monotonic()
    windows: dict[Peer, tuple[float, int]] = {}
    for connection in connections(port):
        try:
            peer, moved = connection.getpeername(), _moved(connection)
        except OSError:
            continue  # gone meanwhile
        start, before = began.get(peer, (now, moved))
        if moved - before >= rate * window_s:
            start, before = now, moved
        windows[peer] = (start, before)
        if peer[0] in stuck and now - start >= window_s:
            _log.warning("cut off a stalled request", extra={"address": peer[0]})
            shut(connection)
    return windows


def shut(connection: socket.socket) -> None:
    """End a connection that someone else holds."""
    with suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)


def _moved(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    acked, received = _MOVED.unpack_from(info, _MOVED_AT)
    return int(acked + received)
