"""Bodies of requests as they arrive: read ahead by aiohttp or, large ones, from the socket."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from aiohttp import web

from shipline.server.http import ClientGone, Request
from shipline.server.limits import BufferedBytes, RateWindow
from shipline.server.problems import Problem

_MIN_READ = 256 << 10  # bytes of a body to gather for a handler
SLICE = 32 << 20  # bytes of a file or a body to transfer before yielding the thread
_LARGE = 8 << 20  # bytes of a body that is read from the socket
_SOCKET_READ = 1 << 20  # bytes of it at once
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody(Protocol):
    """The body of a request."""

    @property
    def ends(self) -> bool:
        """Whether the connection must end with the exchange."""

    async def fill(self) -> Problem | None:
        """Wait for bytes or the end of the body; returns a problem if no more will come."""

    def take(self) -> bytes | None:
        """The next bytes, b"" at the end; None if `fill` must wait for more. Called by one thread
        at a time.
        """

    async def close(self) -> None:
        """Stop reading and release the buffers."""


def open_body(
    incoming: web.BaseRequest,
    request: Request,
    window: RateWindow,
    read_ahead: Callable[[], int],
    buffered: BufferedBytes,
) -> RequestBody:
    """The body of a request; reads about `read_ahead()` bytes ahead at most."""
    transport, sized = incoming.transport, "transfer-encoding" not in request.headers
    plain = transport is not None and transport.get_extra_info("sslcontext") is None
    if plain and sized and (incoming.content_length or 0) >= _LARGE:
        return _SocketBody(incoming, request, window)
    return _BufferedBody(incoming, request, window, read_ahead, buffered)


class _BufferedBody:
    """Read ahead in the event loop, so that the handler's thread rarely waits."""

    ends = False

    def __init__(
        self,
        incoming: web.BaseRequest,
        request: Request,
        window: RateWindow,
        read_ahead: Callable[[], int],
        buffered: BufferedBytes,
    ) -> None:
        self._incoming = incoming
        self._request = request
        self._window = window
        self._read_ahead = read_ahead
        self._buffered = buffered
        self._chunks: deque[bytes] = deque()
        self._received = self._consumed = self._reported = (
            0  # bytes; `_consumed` is written by the handler's thread
        )
        self._reading: asyncio.Task[None] | None = None
        self._ended = False
        self._broken = False
        self._complete = False  # nothing is left to take

    async def fill(self) -> Problem | None:
        if self._reading is None:
            self._loop = asyncio.get_running_loop()
            self._changed, self._space = asyncio.Event(), asyncio.Event()
            self._reading = self._loop.create_task(self._read())
        while (
            self._received - self._consumed < min(_MIN_READ, self._read_ahead()) and not self._ended
        ):
            self._space.set()
            self._changed.clear()
            await self._changed.wait()
        if self._broken and not self._chunks:
            return ClientGone()
        more, self._reported = self._received - self._reported, self._received
        self._request.received = self._received
        self._complete = self._ended and not self._chunks
        return None if self._request.match.streams_body else self._buffered.add(more)

    def take(self) -> bytes | None:
        if not self._chunks:
            return b"" if self._complete else None
        data = self._chunks.popleft()
        before = self._received - self._consumed
        self._consumed += len(data)
        if before >= self._read_ahead() > before - len(data):
            self._loop.call_soon_threadsafe(self._space.set)
        return data

    async def close(self) -> None:
        self._buffered.release()
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        """Chunk by chunk: joining them costs more than hashing them."""
        content, sized = self._incoming.content, "transfer-encoding" not in self._request.headers
        if self._request.expects_continue and self._incoming.transport is not None:
            self._incoming.transport.write(_CONTINUE)
        try:
            while True:
                with self._window.active():
                    data = (await content.readchunk())[0] if sized else await content.readany()
                if not data:
                    break
                self._chunks.append(data)
                self._received += len(data)
                self._changed.set()
                self._space.clear()
                if self._received - self._consumed >= self._read_ahead():
                    await self._space.wait()
        except Exception:  # aiohttp raises many types for a broken body
            self._broken = True
        self._ended = True
        self._changed.set()


class _SocketBody:
    """Read from the socket by the handler's thread, which saves two copies and most of the event
    loop's work. aiohttp's parser does not see those bytes, so the connection ends with the
    exchange.

    Larger than any body that is kept in memory (`Route.body`), so not counted as one.
    """

    def __init__(self, incoming: web.BaseRequest, request: Request, window: RateWindow) -> None:
        self._incoming, self._request, self._window = incoming, request, window
        self._left = incoming.content_length or 0
        self._buffered = b""  # what aiohttp had read before
        self._socket: socket.socket | None = None
        self._low_water = 0  # bytes that make the socket readable
        self._slice = 0  # bytes to read before yielding the thread
        self._broken = False
        if incoming.transport is not None:
            incoming.transport.pause_reading()  # while the handler waits for a thread

    @property
    def ends(self) -> bool:
        return self._socket is not None

    async def fill(self) -> Problem | None:
        sock = self._socket or self._take_over()
        self._slice = SLICE
        if self._left and not self._buffered and not self._broken:
            self._set_low_water(sock, min(self._left, _SOCKET_READ))
            with self._window.active():
                await wait_ready(sock, writing=False)
        return ClientGone() if self._broken else None

    def take(self) -> bytes | None:
        if self._socket is None or self._broken or self._slice <= 0:
            return None
        if data := self._buffered:
            self._buffered = b""
        elif self._left:
            try:
                data = self._socket.recv(min(self._left, _SOCKET_READ))
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                self._broken = True
                return None
        self._left -= len(data)
        self._slice -= len(data)
        self._request.received += len(data)
        return data

    async def close(self) -> None:
        if self._socket is None:
            if self._incoming.transport is not None:
                self._incoming.transport.resume_reading()
            return
        self._set_low_water(self._socket, 1)
        self._socket.close()
        if not self._left:
            self._incoming.content.feed_eof()
        elif self._incoming.transport is not None:
            self._incoming.transport.resume_reading()  # and drop what comes

    def _take_over(self) -> socket.socket:
        transport = self._incoming.transport
        if transport is None:
            raise ConnectionResetError
        if self._request.expects_continue:
            transport.write(_CONTINUE)
        try:
            self._buffered = self._incoming.content.read_nowait()
        except Exception:  # aiohttp raises many types for a broken body
            self._broken = True
        transport.pause_reading()  # last: reading may have made aiohttp resume it
        sock: socket.socket = transport.get_extra_info("socket").dup()
        self._socket = sock
        return sock

    def _set_low_water(self, sock: socket.socket, size: int) -> None:
        if size != self._low_water:
            with suppress(OSError):  # disconnected
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._low_water = size


async def wait_ready(sock: socket.socket, *, writing: bool) -> None:
    """Wait until the socket takes or has bytes, or is broken."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    )
    add(sock, partial(_set_done, ready))
    try:
        await ready
    finally:
        remove(sock)


def _set_done(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
