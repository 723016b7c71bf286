"""Requests, responses, principals, ranges, conditions (RFC 9110) and routes as values; knows no
registry and no server.

A handler is a function of a request. One that reads a large body is a generator-based coroutine: it
yields a `Wait`, a `Beyond` or a `Pool`, is sent the next bytes for READ, and returns the response.
No handler blocks on a client, and each can be called without a server.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Literal, Self, TypeVar
from urllib.parse import parse_qsl

from shipline.propagation import SpanContext
from shipline.server.problems import Problem

Action = Literal["pull", "push", "update", "delete", "replicate"]
"""`push` adds content and new tags, `update` moves an existing tag, `replicate` reads the journal.
"""

Kind = Literal["anonymous", "user", "robot"]
Rights = Callable[[Action, str, str], bool]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, with the rights of the credentials.

    `name` is the login name, empty for anonymous; an `operator` may see and do everything that
    concerns the node as a whole, a `replicator` may replicate some of its repositories.
    """

    name: str
    kind: Kind
    rights: Rights
    operator: bool = False
    replicator: bool = False
    account: Rights | None = None  # rights of the account, if the token has fewer
    stamp: str = field(default="", repr=False)  # changes with the account's secrets

    def may(self, action: Action, repository: str, tag: str = "") -> bool:
        """Whether the action is allowed, on that tag if one is given."""
        return self.rights(action, repository, tag)

    def account_may(self, action: Action, repository: str) -> bool:
        """Whether the account is allowed to, regardless of the token's scope."""
        return (self.account or self.rights)(action, repository, "")

    @property
    def actor(self) -> str:
        """The name for records and logs."""
        return self.name or "anonymous"


def _everything(action: Action, repository: str, tag: str) -> bool:
    return True


def _nothing(action: Action, repository: str, tag: str) -> bool:
    return False


ANYONE = Principal("", "anonymous", _everything, operator=True, replicator=True)
"""Every client of a node without accounts."""

NOBODY = Principal("", "anonymous", _nothing)
"""A request that is not authenticated yet: it may do nothing."""


SMALL_BODY = 1 << 20  # default limit of a body in bytes
YEAR_S = 31_536_000
Headers = list[tuple[str, str]]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_SAFE = ("GET", "HEAD", "OPTIONS")
T = TypeVar("T")


class Pool(Enum):
    """Where code runs: in the event loop, on the threads for disk or CPU work, or on the one kept
    for probes.
    """

    LOOP = "loop"
    DISK = "disk"
    CPU = "cpu"
    RESERVED = "reserved"


class Wait(Enum):
    """READ: the next bytes of the body, b"" at its end; raises ClientGone if the connection breaks.
    PAUSE: a short sleep before trying again.
    """

    READ = "read"
    PAUSE = "pause"


READ, PAUSE = Wait.READ, Wait.PAUSE
LOOP, DISK, CPU, RESERVED = Pool.LOOP, Pool.DISK, Pool.CPU, Pool.RESERVED


class GrowingNumber:
    """A number that grows until it ends, well or with an error: one thread advances it, and any
    number of requests wait for it without a thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], object]] = []
        self.value = -1
        self.ended = False
        self.error: BaseException | None = None

    def advance(self, value: int) -> None:
        self._change(max(self.value, value), ended=False)

    def end(self, error: BaseException | None = None) -> None:
        self.error = error
        self._change(self.value, ended=True)

    def wake_beyond(self, seen: int, wake: Callable[[], object]) -> bool:
        """Have `wake` called, once and from any thread, when the number changes or ends; False if
        it has ended, or is more than `seen`, now.
        """
        with self._lock:
            if self.ended or self.value > seen:
                return False
            self._wakers.append(wake)
            return True

    def _change(self, value: int, *, ended: bool) -> None:
        with self._lock:
            self.value, self.ended = value, ended
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()


@dataclass(frozen=True, slots=True)
class Beyond:
    """Wait until the number is more than `seen`, or has ended; may return early."""

    progress: GrowingNumber
    seen: int
    timeout_s: float = 5.0


Step = Pool | Wait | Beyond
Coro = Generator[Step, bytes, T]
"""Yields what to wait for, or a Pool to continue in; is sent bytes after READ."""


class ClientGone(Problem):
    """The connection broke before the whole body arrived."""

    def __init__(self) -> None:
        super().__init__(400, "SIZE_INVALID", "the connection broke before the whole body arrived")


@dataclass(slots=True)
class Request:
    """One request. Header names are in lower case; repeated headers are joined by a comma."""

    method: str
    path: str  # percent-decoded
    query_string: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str = ""  # the peer's, or the client's behind a trusted proxy
    scheme: str = "http"  # of this server's listener
    version: tuple[int, int] = (1, 1)
    content: bytes = b""  # the body, unless the handler streams it
    received: int = 0  # bytes of the body that have arrived
    principal: Principal = NOBODY  # set by the authenticator
    kind: str = "other"  # of its route, once matched
    repository: str = ""  # from the path, not validated
    span: SpanContext | None = None  # that it works for: of this node, else of the client
    disconnect: Callable[[], None] = lambda: None  # ends the connection; from any thread
    shared_s: int | None = None  # a CDN asks, which may keep content for so many seconds
    match: RouteMatch = field(init=False, repr=False, compare=False)  # set by routing
    _id: str = ""

    @property
    def changes(self) -> bool:
        """Whether the method may change something (RFC 9110, 9.2.1)."""
        return self.method not in _SAFE

    def header(self, name: str) -> str | None:
        """The value of a header."""
        return self.headers.get(name.lower())

    @property
    def id(self) -> str:
        """X-Request-Id as sent by the client or a proxy, else a random one."""
        if not self._id:
            header = self.header("X-Request-Id") or ""
            self._id = header if _REQUEST_ID.fullmatch(header) else os.urandom(8).hex()
        return self._id

    @property
    def parent(self) -> SpanContext | None:
        """The client's span (W3C Trace Context), None without a valid one."""
        header = self.headers.get("traceparent")
        return None if header is None else SpanContext.parse(header)

    @property
    def content_type(self) -> str:
        """The media type, without parameters."""
        return (self.header("Content-Type") or "").partition(";")[0].strip()

    @property
    def content_length(self) -> int | None:
        """Content-Length, None without one. Raises Problem 400."""
        text = self.header("Content-Length")
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,18}", text):
            raise Problem(400, "SIZE_INVALID", "Content-Length is not a number")
        return int(text)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110, 10.1.1)."""
        return self.version > (1, 0) and self.headers.get("expect", "").lower() == "100-continue"

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or bool(self.content_length)

    @property
    def query(self) -> dict[str, list[str]]:
        """The query parameters, each with all of its values."""
        match: dict[str, list[str]] = {}
        if text := self.query_string:
            for key, value in _pairs(text):
                match.setdefault(key, []).append(value)
        return match

    def parameter(self, name: str) -> str | None:
        """The last value of a query parameter."""
        values = self.query.get(name)
        return values[-1] if values else None

    def receive(self, limit: int) -> Coro[None]:
        """Read the whole body into `content`. Raises Problem 413 for more than `limit` bytes."""
        if (self.content_length or 0) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        while data := (yield READ):
            parts.append(data)
            if self.received > limit:
                raise _too_large(limit)
        self.content = b"".join(parts)

    def read(self, limit: int) -> bytes:
        """The body. Raises Problem 413 for more than `limit` bytes."""
        if len(self.content) > limit:
            raise _too_large(limit)
        return self.content


def _too_large(limit: int) -> Problem:
    return Problem(413, "SIZE_INVALID", f"the body is limited to {limit} bytes")


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=1000, errors="strict")
    except ValueError:
        raise Problem(400, "UNSUPPORTED", "the query string cannot be read") from None


@dataclass(frozen=True, slots=True)
class File:
    """`size` bytes of a file from `start`."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Growing:
    """`size` bytes from `start` of a file that is still being written: those before `progress` may
    be sent. If it ends before the last of them, the connection is broken.
    """

    open: Callable[[], int]  # a descriptor, which the caller closes
    start: int
    size: int
    progress: GrowingNumber


@dataclass(frozen=True, slots=True)
class Response:
    """The body is bytes, a range of a file, one that grows, or an iterator for content of unknown
    length; `size` in bytes, 0 for an iterator.
    """

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | File | Growing | Iterator[bytes] = b""
    size: int = 0

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Self:
        """With Content-Length set."""
        return cls(status, [*headers, ("Content-Length", str(len(body)))], body, len(body))


Handler = Callable[..., Response]
AnyHandler = Callable[..., Response | Coro[Response]]
"""One that is a generator function reads the body itself; others may return a coroutine."""
PoolChoice = Callable[..., Pool]
"""Chooses the pool from the arguments of the path."""
Requirement = Literal[
    "repository", "upload", "catalog", "base", "open", "own", "operator", "replicator"
]
"""What a client must be authorized for.

`repository`: to pull (GET, HEAD), push (POST, PUT, PATCH) or delete in the repository `name`.
`upload`: to push there, whatever the method. `catalog`: the handler filters the names. `base`: any
credentials. `open`: nothing. `own`: the handler checks `request.principal`. `operator`: rights of
an operator. `replicator`: to replicate some repository; the handler filters the names.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """A path pattern, whose groups are the handler's arguments, with a handler per method."""

    pattern: re.Pattern[str]
    requires: Requirement
    handlers: Mapping[str, AnyHandler]
    kind: str
    pool: PoolChoice
    body: int  # limit in bytes of a body that is not streamed


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The route and handler of a request, with the arguments from its path."""

    route: Route
    handler: AnyHandler
    arguments: Mapping[str, str]

    @property
    def streams_body(self) -> bool:
        """Whether the handler reads the body itself."""
        return isgeneratorfunction(self.handler)

    @property
    def pool(self) -> Pool:
        return self.route.pool(**self.arguments)


def route(
    pattern: str,
    *,
    requires: Requirement,
    pool: PoolChoice | Pool = Pool.DISK,
    body: int = SMALL_BODY,
    **handlers: AnyHandler,
) -> Route:
    """`route("/v2/", requires="base", GET=base)`; GET handles HEAD too unless HEAD is given.

    Its kind, for metrics and logs, is the name of the handlers' module.
    """
    kind = next((each.__module__.rpartition(".")[2] for each in handlers.values()), "other")
    if "GET" in handlers:
        handlers.setdefault("HEAD", handlers["GET"])
    choose_pool = (lambda **_: pool) if isinstance(pool, Pool) else pool
    return Route(re.compile(pattern), requires, handlers, kind, choose_pool, body)


def match_route(table: tuple[Route, ...], request: Request) -> RouteMatch:
    """The first route that matches the path. Raises Problem 404 or 405."""
    for candidate in table:
        match = candidate.pattern.fullmatch(request.path)
        if match is None:
            continue
        request.kind = candidate.kind
        handler = candidate.handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(sorted(candidate.handlers))
            raise Problem(
                405,
                "UNSUPPORTED",
                f"method {request.method} is not allowed here",
                headers=(("Allow", allowed),),
            )
        return RouteMatch(candidate, handler, match.groupdict())
    raise Problem(404, "UNSUPPORTED", "no such path")


def cache_forever(request: Request) -> tuple[str, str]:
    """Cache-Control of content by digest, which never changes (RFC 9111; RFC 8246). What a client
    needed credentials for is not for shared caches, except the CDN's.
    """
    if (shared_s := request.shared_s) is not None and shared_s < YEAR_S:
        scope = "public" if shared_s else "private"
        return "Cache-Control", f"{scope}, max-age={shared_s}"
    public = shared_s is not None or request.principal.kind == "anonymous"
    scope = "public" if public else "private"
    return "Cache-Control", f"{scope}, max-age={YEAR_S}, immutable"


def revalidate(request: Request) -> tuple[str, str]:
    """Cache-Control of a tag, which may move at any time: its ETag is asked about."""
    scope = "public" if request.principal.kind == "anonymous" else "private"
    return "Cache-Control", f"{scope}, no-cache"


_RANGE = re.compile(r"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))\Z", re.IGNORECASE)
_MAX_RANGE_HEADER = 100  # characters


class NotSatisfiable(Exception):
    """The range lies outside the content."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first and last byte of the requested range, clamped to `size`; None means all.

    A header with several ranges, a malformed one, and one for empty content is ignored (RFC 9110,
    14.2). Raises NotSatisfiable if the range starts beyond the end, of the content or its own.
    """
    if not header or len(header) > _MAX_RANGE_HEADER or not size:
        return None
    match = _RANGE.match(header.replace(" ", ""))
    if match is None:
        return None
    if match[3]:
        length = min(int(match[3]), size)
        if length == 0:
            raise NotSatisfiable
        return size - length, size - 1
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if first >= size or last < first:
        raise NotSatisfiable
    return first, min(last, size - 1)


def precondition_holds(if_match: str | None, if_none_match: str | None, etag: str) -> bool:
    """Whether If-Match and If-None-Match allow a change of what has `etag`, empty if it does not
    exist (RFC 9110, 13.1.1 and 13.1.2).
    """
    return matches(if_match, etag) and (not etag or not not_modified(if_none_match, etag))


def matches(if_match: str | None, etag: str) -> bool:
    """Whether If-Match allows a request for what has `etag` (RFC 9110, 13.1.1)."""
    if if_match is None:
        return True
    tags = {tag.strip() for tag in if_match.split(",")}
    return bool(etag) and bool(tags & {"*", etag})


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Whether the client already has this content (RFC 9110, 13.1.2; weak comparison).

    An unquoted digest matches too: docker-registry accepts it, and clients send it.
    """
    if if_none_match is None:
        return False
    known = {tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")}
    return etag.strip('"') in known or "*" in known
