"""HTTP exchanges over connections of aiohttp: runs the application's coroutine for each request.

Every wait for a client happens here, inside a `limits.RateWindow`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import web

from shipline.propagation import SpanContext, within
from shipline.server.app import Application
from shipline.server.bodies import SLICE, RequestBody, open_body, wait_ready
from shipline.server.http import (
    DISK,
    LOOP,
    PAUSE,
    READ,
    Beyond,
    Coro,
    File,
    Growing,
    GrowingNumber,
    Pool,
    Request,
    Response,
    Step,
)
from shipline.server.limits import (
    BufferedBytes,
    MinimumRate,
    RateWindow,
    ThreadPools,
    client_network,
    shut_down,
)
from shipline.server.problems import Problem, problem_of

_log = logging.getLogger(__name__)
# bytes read ahead of one handler, of all
_READ_AHEAD, _MIN_READ_AHEAD, _ALL_READ_AHEAD = (2 << 20, 64 << 10, 32 << 20)
_WRITE_BUFFER = 64 << 10  # bytes buffered for one client
_PAUSE_S = 0.05
_LOOK_S = 5.0  # between two looks whether a client that waits for a growing file is still there
_REASONS = {status.value: status.phrase for status in HTTPStatus}
T = TypeVar("T")


class AiohttpHandler:
    """Serves requests that aiohttp has parsed; `handle` is its request handler."""

    def __init__(self, app: Application, minimum_rate: MinimumRate, *, scheme: str) -> None:
        self._app = app
        self._minimum_rate = minimum_rate
        self._scheme = scheme
        self._buffered: defaultdict[str, int] = defaultdict(int)
        self._changes: dict[GrowingNumber, asyncio.Future[None]] = {}
        self.pools = ThreadPools()
        self.stopping = False  # close connections after the current exchange
        self.busy: set[web.RequestHandler] = set()  # connections with an exchange in progress

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Never raises for a broken connection."""
        transport = incoming.transport
        if transport is None:
            return _CLOSE
        self.busy.add(incoming.protocol)
        request = _request_of(incoming, self._scheme)
        request.disconnect = partial(shut_down, transport)
        try:
            if incoming.body_exists or transport.get_write_buffer_size():
                with self._minimum_rate.watch(transport, request.address) as window:
                    return await self._exchange(incoming, request, window)
            outgoing = await self._respond(request, None)
            return await self._send(incoming, request, outgoing, None)
        except ConnectionError as error:
            _log.debug("client disconnected: %s", error)
            return _CLOSE
        finally:
            self.busy.discard(incoming.protocol)

    async def _exchange(
        self, incoming: web.BaseRequest, request: Request, window: RateWindow
    ) -> web.StreamResponse:
        buffered = BufferedBytes(self._buffered, client_network(request.address))
        body = open_body(incoming, request, window, self._read_ahead, buffered)
        try:
            outgoing = await self._respond(request, body)
        finally:
            await body.close()
        return await self._send(incoming, request, outgoing, window, ends=body.ends)

    def _read_ahead(self) -> int:
        """Bytes to read ahead of one handler now, less if there are many. From any thread."""
        return max(_MIN_READ_AHEAD, min(_READ_AHEAD, _ALL_READ_AHEAD // (len(self.busy) or 1)))

    async def _respond(self, request: Request, body: RequestBody | None) -> _OpenResponse:
        """Run the application's coroutine until it returns a response."""
        coroutine, pool = self._app(request), LOOP
        result = _start(coroutine)
        resume = _resume if request.span is None else partial(_resume_traced, request.span)
        while not isinstance(result, _OpenResponse):
            problem = None
            if isinstance(result, Pool):
                pool = result
            elif result is PAUSE:
                await asyncio.sleep(_PAUSE_S)
            elif isinstance(result, Beyond):
                await self._beyond(result.progress, result.seen, result.timeout_s)
            elif body is not None:
                problem = await body.fill()
            if pool is LOOP:
                result = resume(coroutine, result, body, problem)
            else:
                result = await self._run(pool, request, resume, coroutine, result, body, problem)
        return result

    async def _beyond(self, progress: GrowingNumber, seen: int, timeout_s: float = _LOOK_S) -> None:
        """Wait for the next change of `progress`, for a while. All that wait for it share one
        future: a change costs its thread one call.
        """
        change, loop = self._changes.get(progress), asyncio.get_running_loop()
        if change is None:
            change = loop.create_future()
            wake = partial(_call_in, loop, partial(self._changed, progress))
            if not progress.wake_beyond(seen, wake):
                return
            self._changes[progress] = change
        if progress.value <= seen:
            await asyncio.wait({change}, timeout=timeout_s)

    def _changed(self, progress: GrowingNumber) -> None:
        change = self._changes.pop(progress, None)
        if change is not None:
            change.set_result(None)

    async def _run(
        self, pool: Pool, request: Request, work: Callable[..., T], *arguments: Any
    ) -> T:
        return await self.pools.run(pool, request.address, work, *arguments)

    async def _send(
        self,
        incoming: web.BaseRequest,
        request: Request,
        outgoing: _OpenResponse,
        window: RateWindow | None,
        *,
        ends: bool = False,
    ) -> web.StreamResponse:
        """`ends` the connection after the response."""
        transport, response = incoming.transport, outgoing.response
        if transport is None or transport.is_closing():
            outgoing.close()
            raise ConnectionResetError
        unread = not incoming.content.is_eof()
        endless = isinstance(response.body, Iterator) and request.version < (1, 1)
        ends = ends or unread or endless or self.stopping
        outcome = _KEEP_ALIVE if incoming.keep_alive and not ends else _CLOSE
        head = _encode_head(request, response, keep_alive=outcome.keep_alive)
        body = response.body
        if window is None and isinstance(body, bytes) and len(body) <= _WRITE_BUFFER:
            transport.write(head if request.method == "HEAD" else head + body)
            return outcome
        with (
            self._minimum_rate.watch(transport, request.address) as send_window,
            send_window.active(),
        ):
            try:
                await self._send_all(incoming, request, head, outgoing, send_window)
            finally:
                outgoing.close()
        return outcome

    async def _send_all(
        self,
        incoming: web.BaseRequest,
        request: Request,
        head: bytes,
        outgoing: _OpenResponse,
        window: RateWindow,
    ) -> None:
        connection, body = _Connection(incoming), outgoing.response.body
        await connection.flush()
        if request.method == "HEAD":
            await connection.write(head)
        elif isinstance(body, bytes):
            await connection.write(head + body[:_WRITE_BUFFER])
            for start in range(_WRITE_BUFFER, len(body), _WRITE_BUFFER):
                await connection.write(body[start : start + _WRITE_BUFFER])
        elif isinstance(body, File):
            await connection.write(head)
            end = body.start + body.size
            await self._send_file(connection, request, outgoing.fd, body.start, end)
        elif isinstance(body, Growing):
            await connection.write(head)
            await self._send_growing(connection, request, body, outgoing.fd, window)
        else:
            await connection.write(head)
            await self._send_chunks(connection, request, body)

    async def _send_growing(
        self, connection: _Connection, request: Request, part: Growing, fd: int, window: RateWindow
    ) -> None:
        """While it waits for the file, the client's rate does not count."""
        position, end, progress = part.start, part.start + part.size, part.progress
        while position < end:
            ended = progress.ended
            ready = min(end, progress.value)
            if position < ready:
                await self._send_file(connection, request, fd, position, ready)
                position = ready
            elif ended:
                raise ConnectionAbortedError("the content could not be completed")
            else:
                with window.paused():
                    await self._beyond(progress, position)
                connection.check()

    async def _send_file(
        self, connection: _Connection, request: Request, fd: int, position: int, end: int
    ) -> None:
        """With sendfile(2) on a thread; TLS needs the bytes in user space."""
        if connection.is_tls:
            while position < end:
                size = min(_WRITE_BUFFER, end - position)
                data = await self._run(DISK, request, os.pread, fd, size, position)
                if not data:
                    raise ConnectionAbortedError("the file was truncated")
                await connection.write(data)
                position += len(data)
            return
        with connection.duplicate() as sock:
            while position < end:
                position = await self._run(DISK, request, _sendfile, sock, fd, position, end)
                if position < end:
                    await wait_ready(sock, writing=True)

    async def _send_chunks(
        self, connection: _Connection, request: Request, chunks: Iterator[bytes]
    ) -> None:
        """Chunked, or up to the end of the connection for HTTP/1.0."""
        chunked = request.version > (1, 0)
        while data := await self._run(DISK, request, next, chunks, b""):
            await connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        await connection.write(b"0\r\n\r\n" if chunked else b"")


class _OpenResponse:
    """A response with its file opened; `close` it once it was sent."""

    def __init__(self, response: Response, fd: int = -1) -> None:
        self.response = response
        self.fd = fd

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _Connection:
    """A connection to write to; at most one write is buffered."""

    def __init__(self, incoming: web.BaseRequest) -> None:
        assert incoming.transport is not None
        self._incoming, self._transport = incoming, incoming.transport
        self._transport.set_write_buffer_limits(0)
        self.is_tls = self._transport.get_extra_info("sslcontext") is not None

    def check(self) -> None:
        """Raises ConnectionResetError once the client has gone."""
        if self._transport.is_closing():
            raise ConnectionResetError

    async def write(self, data: bytes) -> None:
        self.check()
        self._transport.write(data)
        await self.flush()

    async def flush(self) -> None:
        """Wait until the kernel has taken everything."""
        if self._transport.get_write_buffer_size():
            await self._incoming.writer.drain()

    @contextmanager
    def duplicate(self) -> Iterator[socket.socket]:
        """A duplicate of the socket; write nothing else while it is in use."""
        with self._transport.get_extra_info("socket").dup() as sock:
            yield sock


class AlreadySent(web.StreamResponse):
    """Tells aiohttp that the response was already sent."""

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


_KEEP_ALIVE, _CLOSE = AlreadySent(keep_alive=True), AlreadySent(keep_alive=False)


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(call)


def _start(coroutine: Coro[Response]) -> Step | _OpenResponse:
    """Start the coroutine; a response is returned with its file open."""
    try:
        return next(coroutine)
    except StopIteration as stop:
        return _open_response(stop.value)


def _resume(
    coroutine: Coro[Response], wait: Step, body: RequestBody | None, problem: Problem | None
) -> Step | _OpenResponse:
    """Resume the coroutine after `wait`, feeding it the bytes that are buffered."""
    try:
        if problem is not None:
            return coroutine.throw(problem)
        if wait is not READ or body is None:
            wait = coroutine.send(b"")
        while wait is READ and body is not None and (data := body.take()) is not None:
            wait = coroutine.send(data)
        return wait
    except StopIteration as stop:
        return _open_response(stop.value)


def _resume_traced(
    span: SpanContext,
    coroutine: Coro[Response],
    wait: Step,
    body: RequestBody | None,
    problem: Problem | None,
) -> Step | _OpenResponse:
    """`_resume`, working for `span`: what it writes and asks other servers names it."""
    with within(span):
        return _resume(coroutine, wait, body, problem)


def _open_response(response: Response) -> _OpenResponse:
    part = response.body
    if not isinstance(part, File | Growing):
        return _OpenResponse(response)
    try:
        if isinstance(part, Growing):
            return _OpenResponse(response, part.open())
        fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        gone = Problem(404, "BLOB_UNKNOWN", "the blob was just deleted")
        problem = gone if isinstance(error, FileNotFoundError) else problem_of(error)
        return _OpenResponse(Response.of(problem.status, problem.headers, problem.body()))
    if part.size > _WRITE_BUFFER:
        return _OpenResponse(response, fd)
    with os.fdopen(fd, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), part.size, part.start)
    return _OpenResponse(Response(response.status, response.headers, data, len(data)))


def _sendfile(sock: socket.socket, fd: int, position: int, end: int) -> int:
    """Send as much of a file as the socket takes now; returns the new position. Waiting here for a
    fast client is slower: it then takes little at a time.
    """
    stop = min(end, position + SLICE)
    while position < stop:
        try:
            sent = os.sendfile(sock.fileno(), fd, position, stop - position)
        except BlockingIOError:
            break
        if not sent:
            raise ConnectionAbortedError("the file was truncated")
        position += sent
    return position


def _request_of(incoming: web.BaseRequest, scheme: str) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in incoming.raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = _origin_form(incoming.raw_path).partition("?")
    version = (incoming.version.major, incoming.version.minor)
    peer = incoming.remote or ""
    return Request(incoming.method, unquote(path), query, headers, peer, scheme, version)


def _origin_form(target: str) -> str:
    """The path and query, also of an absolute-form target (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target
    _, slashes, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if slashes else target


_date = (0, "")


def _http_date() -> str:
    global _date
    now = int(time.time())
    if now != _date[0]:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


def _encode_head(request: Request, response: Response, *, keep_alive: bool) -> bytes:
    """The status line and headers (RFC 9112)."""
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}",
        f"Date: {_http_date()}",
    ]
    lines += [f"{name}: {value}" for name, value in response.headers]
    old = request.version < (1, 1)
    if isinstance(response.body, Iterator) and not old:
        lines.append("Transfer-Encoding: chunked")
    if keep_alive is old:
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a header contains a line break")
    return f"{head}\r\n\r\n".encode("latin-1", "replace")
