"""One request and its response over a connection of the HTTP server (aiohttp).

The application says step by step what it needs (`http.Step`); here it gets it. All waits for a
client are here, each in a `limits.RateWindow`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import web

from shipline.server.app import Application
from shipline.server.http import (
    DISK,
    LOOP,
    PAUSE,
    READ,
    ClientGone,
    File,
    Request,
    Response,
    Step,
    Steps,
)
from shipline.server.limits import BufferedBytes, MinimumRate, RateWindow, ThreadPools, near
from shipline.server.problems import Problem, problem_of

_log = logging.getLogger(__name__)
_LEAST = 256 << 10  # bytes of a body that a handler waits for
_AHEAD, _ALL_AHEAD = 2 << 20, 64 << 20  # bytes that are read ahead of a handler, of all of them
_PIECE = 64 << 10  # bytes that wait in memory for one client to take them
_TURN = 32 << 20  # bytes of a file that are sent before another request gets the thread
_PAUSE_S = 0.05
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
T = TypeVar("T")


class Conversation:
    """What all exchanges of a server share. `answer` is aiohttp's handler of a request."""

    def __init__(self, app: Application, pace: MinimumRate, *, scheme: str) -> None:
        self._app = app
        self._pace = pace
        self._scheme = scheme
        self._held: defaultdict[str, int] = defaultdict(int)
        self.pools = ThreadPools()
        self.stopping = False  # connections end with the exchange that runs
        self.busy: set[web.RequestHandler] = set()  # connections where one runs

    async def answer(self, asked: web.BaseRequest) -> web.StreamResponse:
        """Whatever happens to the connection, it is a response for aiohttp."""
        transport = asked.transport
        if transport is None:
            return _LAST
        self.busy.add(asked.protocol)
        request = _request_of(asked, self._scheme)
        try:
            if asked.body_exists or transport.get_write_buffer_size():
                with self._pace.waiting(transport, request.address) as window:
                    return await self._exchange(asked, request, window)
            done = await self._respond(request, None)
            return await self._send(asked, request, done, None)
        except ConnectionError as error:
            _log.debug("the client has left: %s", error)
            return _LAST
        finally:
            self.busy.discard(asked.protocol)

    async def _exchange(
        self, asked: web.BaseRequest, request: Request, window: RateWindow
    ) -> web.StreamResponse:
        most = max(_LEAST, min(_AHEAD, _ALL_AHEAD // len(self.busy)))
        body = _Body(asked, request, window, most, BufferedBytes(self._held, near(request.address)))
        try:
            done = await self._respond(request, body)
        finally:
            await body.close()
        return await self._send(asked, request, done, window)

    async def _respond(self, request: Request, body: _Body | None) -> _Done:
        """Give the application what it needs until it has a response."""
        steps, place = self._app(request), LOOP
        result = _begin(steps)
        while not isinstance(result, _Done):
            problem = None
            if result is READ:
                problem = None if body is None else await body.fill()
            elif result is PAUSE:
                await asyncio.sleep(_PAUSE_S)
            else:
                place = result
            if place is LOOP:
                result = _advance(steps, result, body, problem)
            else:
                result = await self._run(place, request, _advance, steps, result, body, problem)
        return result

    async def _run(
        self, place: Step, request: Request, work: Callable[..., T], *arguments: Any
    ) -> T:
        return await self.pools.run(place, request.address, work, *arguments)

    async def _send(
        self, asked: web.BaseRequest, request: Request, done: _Done, window: RateWindow | None
    ) -> web.StreamResponse:
        transport, response = asked.transport, done.response
        if transport is None or transport.is_closing():
            done.close()
            raise ConnectionResetError
        unread = not asked.content.is_eof()
        endless = isinstance(response.body, Iterator) and request.version < (1, 1)
        ends = unread or endless or self.stopping
        sent = _NEXT if asked.keep_alive and not ends else _LAST
        head = _head(request, response, keep_alive=sent.keep_alive)
        body = response.body
        if window is None and isinstance(body, bytes) and len(body) <= _PIECE:
            transport.write(head if request.method == "HEAD" else head + body)
            return sent
        with self._pace.waiting(transport, request.address) as taking, taking.opened():
            try:
                await self._send_all(asked, request, head, done)
            finally:
                done.close()
        return sent

    async def _send_all(
        self, asked: web.BaseRequest, request: Request, head: bytes, done: _Done
    ) -> None:
        out, body = _Out(asked), done.response.body
        await out.flush()
        if request.method == "HEAD":
            await out.write(head)
        elif isinstance(body, bytes):
            await out.write(head + body[:_PIECE])
            for start in range(_PIECE, len(body), _PIECE):
                await out.write(body[start : start + _PIECE])
        elif isinstance(body, File):
            await out.write(head)
            await self._send_file(out, request, body, done.fd)
        else:
            await out.write(head)
            await self._send_pieces(out, request, body)

    async def _send_file(self, out: _Out, request: Request, part: File, fd: int) -> None:
        """By the kernel (sendfile(2)) from a thread; TLS needs the bytes here."""
        position, end = part.start, part.start + part.size
        if out.is_tls:
            while position < end:
                size = min(_PIECE, end - position)
                data = await self._run(DISK, request, os.pread, fd, size, position)
                if not data:
                    raise ConnectionAbortedError(f"{part.path} is shorter than it was")
                await out.write(data)
                position += len(data)
            return
        with out.duplicate() as link:
            while position < end:
                position = await self._run(DISK, request, _push, link, fd, position, end)
                if position < end:
                    await _writable(link)

    async def _send_pieces(self, out: _Out, request: Request, pieces: Iterator[bytes]) -> None:
        """Chunked, or until the end of the connection for an old client."""
        chunked = request.version > (1, 0)
        while data := await self._run(DISK, request, next, pieces, b""):
            await out.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        await out.write(b"0\r\n\r\n" if chunked else b"")


class _Done:
    """A response, and the descriptor of its file, open; `close` is called once it was sent."""

    def __init__(self, response: Response, fd: int = -1) -> None:
        self.response = response
        self.fd = fd

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _Body:
    """The body of a request as it comes: read ahead in the event loop, so that the thread of the
    handler finds the next bytes when it has done with the last ones.
    """

    def __init__(
        self,
        asked: web.BaseRequest,
        request: Request,
        window: RateWindow,
        most: int,
        held: BufferedBytes,
    ) -> None:
        """At most about `most` bytes are ahead."""
        self._asked = asked
        self._request = request
        self._window = window
        self._most = most
        self._held = held
        self._waits = request.headers.get("expect", "").lower() == "100-continue"
        self._pieces: deque[bytes] = deque()
        self._came = self._taken = self._told = 0  # bytes; `_taken` is the handler's
        self._reading: asyncio.Task[None] | None = None
        self._ended = False
        self._broken = False

    async def fill(self) -> Problem | None:
        """Wait for bytes that `take` returns, or for the end; returns why no more will come."""
        if self._reading is None:
            self._loop = asyncio.get_running_loop()
            self._changed, self._room = asyncio.Event(), asyncio.Event()
            self._reading = self._loop.create_task(self._read())
        while self._came - self._taken < min(_LEAST, self._most) and not self._ended:
            self._room.set()
            self._changed.clear()
            await self._changed.wait()
        if self._broken and not self._pieces:
            return ClientGone()
        more, self._told = self._came - self._told, self._came
        self._request.received = self._came
        return None if self._request.found.receives else self._held.add(more)

    def take(self) -> bytes:
        """The next bytes, b"" where none are here; called by one thread at a time."""
        if not self._pieces:
            return b""
        data = self._pieces.popleft()
        before = self._came - self._taken
        self._taken += len(data)
        if before >= self._most > before - len(data):
            self._loop.call_soon_threadsafe(self._room.set)
        return data

    @property
    def here(self) -> bool:
        """Whether `take` returns bytes."""
        return bool(self._pieces)

    async def close(self) -> None:
        """Read no further, and hold nothing."""
        self._held.release()
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> None:
        """Piece by piece, since each copy costs more than hashing it."""
        content, whole = self._asked.content, "transfer-encoding" not in self._request.headers
        if self._waits and self._asked.transport is not None:
            self._asked.transport.write(_CONTINUE)
        try:
            while True:
                with self._window.opened():
                    data = (await content.readchunk())[0] if whole else await content.readany()
                if not data:
                    break
                self._pieces.append(data)
                self._came += len(data)
                self._changed.set()
                self._room.clear()
                if self._came - self._taken >= self._most:
                    await self._room.wait()
        except Exception:  # whatever the server says of a body that broke off
            self._broken = True
        self._ended = True
        self._changed.set()


class _Out:
    """A connection that is written to; at most one piece waits in memory."""

    def __init__(self, asked: web.BaseRequest) -> None:
        assert asked.transport is not None
        self._asked, self._transport = asked, asked.transport
        self._transport.set_write_buffer_limits(0)
        self.is_tls = self._transport.get_extra_info("sslcontext") is not None

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)
        await self.flush()

    async def flush(self) -> None:
        """Wait until the kernel has all of it."""
        if self._transport.get_write_buffer_size():
            await self._asked.writer.drain()

    @contextmanager
    def duplicate(self) -> Iterator[socket.socket]:
        """The socket, to be used while nothing is written here."""
        with self._transport.get_extra_info("socket").dup() as link:
            yield link


class Sent(web.StreamResponse):
    """What aiohttp gets for a response that was sent already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._alive = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._alive

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


_NEXT, _LAST = Sent(keep_alive=True), Sent(keep_alive=False)


def _begin(steps: Steps[Response]) -> Step | _Done:
    """The first thing that the application needs, or its response, the file of it open."""
    try:
        return next(steps)
    except StopIteration as stop:
        return _opened(stop.value)


def _advance(
    steps: Steps[Response], step: Step, body: _Body | None, problem: Problem | None
) -> Step | _Done:
    """What the application needs after `step`; as long as that is what has come, it gets it."""
    try:
        if problem is not None:
            return steps.throw(problem)
        step = steps.send(body.take() if step is READ and body is not None else b"")
        while step is READ and body is not None and body.here:
            step = steps.send(body.take())
        return step
    except StopIteration as stop:
        return _opened(stop.value)


def _opened(response: Response) -> _Done:
    part = response.body
    if not isinstance(part, File):
        return _Done(response)
    try:
        fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        gone = Problem(404, "BLOB_UNKNOWN", "it has just been deleted")
        problem = gone if isinstance(error, FileNotFoundError) else problem_of(error)
        return _Done(Response.of(problem.status, problem.headers, problem.body()))
    if part.size > _PIECE:
        return _Done(response, fd)
    with os.fdopen(fd, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), part.size, part.start)
    return _Done(Response(response.status, response.headers, data, len(data)))


def _push(link: socket.socket, fd: int, position: int, end: int) -> int:
    """Send of a file what the connection takes now; returns the position after that. Waiting here
    for a client that is fast was slower: it then took little at a time.
    """
    stop = min(end, position + _TURN)
    while position < stop:
        try:
            sent = os.sendfile(link.fileno(), fd, position, stop - position)
        except BlockingIOError:
            break
        if not sent:
            raise ConnectionAbortedError("the file is shorter than it was")
        position += sent
    return position


async def _writable(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(link, partial(_settle, ready))
    try:
        await ready
    finally:
        loop.remove_writer(link)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _request_of(asked: web.BaseRequest, scheme: str) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in asked.raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = _origin_form(asked.raw_path).partition("?")
    version = (asked.version.major, asked.version.minor)
    peer = asked.remote or ""
    return Request(asked.method, unquote(path), query, headers, peer, scheme, version)


def _origin_form(target: str) -> str:
    """Proxies write the whole URL (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target
    _, slashes, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if slashes else target


_date = (0, "")


def _now() -> str:
    global _date
    now = int(time.time())
    if now != _date[0]:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


def _head(request: Request, response: Response, *, keep_alive: bool) -> bytes:
    """The status line and headers (RFC 9112)."""
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}", f"Date: {_now()}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    old = request.version < (1, 1)
    if isinstance(response.body, Iterator) and not old:
        lines.append("Transfer-Encoding: chunked")
    if keep_alive is old:
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a header has more than one line")
    return f"{head}\r\n\r\n".encode("latin-1", "replace")
