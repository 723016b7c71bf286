"""Requests and responses as values, who asks, ranges and conditions (RFC 9110), and a routing
table; knows no registry and no server.

A handler is a function of a request. One that needs more than what is in memory is a generator: it
yields what it needs (a `Step`), gets the next bytes of the body for READ, and returns the response.
So no handler waits for a client, and all of them can be called without a server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Literal, Self, TypeVar
from urllib.parse import parse_qsl

from shipline.server.problems import Problem

Action = Literal["pull", "push", "update", "delete"]
"""`push` brings content and names that are new, `update` moves a tag that is there."""

Kind = Literal["anonymous", "user", "robot"]
May = Callable[[Action, str, str], bool]


@dataclass(frozen=True, slots=True)
class Principal:
    """An account for the length of one request, limited to what its credentials allow.

    `name` is the login name, empty for nobody; `operator` may see and do everything that concerns
    the node as a whole.
    """

    name: str
    kind: Kind
    rights: May
    operator: bool = False
    account: May | None = None  # rights of the account, where these credentials have less
    stamp: str = field(default="", repr=False)  # another one once the account's secrets changed

    def may(self, action: Action, repository: str, tag: str = "") -> bool:
        """Whether the action is allowed; with `tag`, for that name of a manifest."""
        return self.rights(action, repository, tag)

    def could(self, action: Action, repository: str) -> bool:
        """Whether the account is allowed to, whatever these credentials are limited to."""
        return (self.account or self.rights)(action, repository, "")

    @property
    def actor(self) -> str:
        """The name for records: what did this."""
        return self.name or "anonymous"


def _everything(action: Action, repository: str, tag: str) -> bool:
    return True


def _nothing(action: Action, repository: str, tag: str) -> bool:
    return False


ANYONE = Principal("", "anonymous", _everything, operator=True)
"""Everybody, at a node without accounts."""

NOBODY = Principal("", "anonymous", _nothing)
"""A request that nobody has looked at yet: it may do nothing."""


SMALL_BODY = 1 << 20  # bytes of a request's body where its route says nothing else
Headers = list[tuple[str, str]]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAFE = ("GET", "HEAD", "OPTIONS")
T = TypeVar("T")


class Step(Enum):
    """What a handler needs next.

    READ: the next bytes of the body, b"" at its end; ClientGone is raised where they will not come.
    LOOP, DISK, CPU, RESERVED: to go on in the event loop, on the pool for disks, on that for work
    of the processor, on the thread that is kept for probes. PAUSE: to be called a little later.
    """

    READ = "read"
    LOOP = "loop"
    DISK = "disk"
    CPU = "cpu"
    RESERVED = "reserved"
    PAUSE = "pause"


READ, PAUSE = Step.READ, Step.PAUSE
LOOP, DISK, CPU, RESERVED = Step.LOOP, Step.DISK, Step.CPU, Step.RESERVED
Steps = Generator[Step, bytes, T]


class ClientGone(Problem):
    """The connection broke before all of the body had come."""

    def __init__(self) -> None:
        super().__init__(400, "SIZE_INVALID", "the connection broke before the body had come")


@dataclass(slots=True)
class Request:
    """One request; names of headers in lower case, the values of equal ones joined by a comma."""

    method: str
    path: str  # without escapes
    query_string: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    address: str = ""  # the peer's, or what it vouches for
    scheme: str = "http"  # as this server was asked
    version: tuple[int, int] = (1, 1)
    content: bytes = b""  # the body, where its route takes a small one
    received: int = 0  # bytes of the body that have come
    identity: Principal = NOBODY  # until a guard has admitted it
    kind: str = "other"  # of its route, once there is one
    repository: str = ""  # as the path says, unchecked
    found: RouteMatch = field(init=False, repr=False, compare=False)  # once there is a route
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
        """What the client or a proxy calls this request (X-Request-Id), else a name of our own."""
        if not self._id:
            given = self.header("X-Request-Id") or ""
            self._id = given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
        return self._id

    @property
    def traceparent(self) -> str:
        """The trace that the request belongs to (W3C Trace Context), empty without one."""
        given = self.header("Traceparent") or ""
        return given if _TRACEPARENT.fullmatch(given) else ""

    @property
    def content_type(self) -> str:
        """The media type, without parameters."""
        return (self.header("Content-Type") or "").partition(";")[0].strip()

    @property
    def content_length(self) -> int | None:
        """What the client promised, None for a body of unknown length or without one."""
        text = self.header("Content-Length")
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,18}", text):
            raise Problem(400, "SIZE_INVALID", "Content-Length is not a number")
        return int(text)

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or bool(self.content_length)

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query string, each with all of its values."""
        found: dict[str, list[str]] = {}
        if text := self.query_string:
            for key, value in _pairs(text):
                found.setdefault(key, []).append(value)
        return found

    def parameter(self, name: str) -> str | None:
        """The last value of a query parameter."""
        values = self.query.get(name)
        return values[-1] if values else None

    def receive(self, limit: int) -> Steps[None]:
        """Have the whole body in `content`. Raises Problem 413 for more than `limit` bytes."""
        if (self.content_length or 0) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        while data := (yield READ):
            parts.append(data)
            if self.received > limit:
                raise _too_large(limit)
        self.content = b"".join(parts)

    def read(self, limit: int) -> bytes:
        """The body that was received. Raises Problem 413 for more than `limit` bytes."""
        if len(self.content) > limit:
            raise _too_large(limit)
        return self.content


def _too_large(limit: int) -> Problem:
    return Problem(413, "SIZE_INVALID", f"the body may have {limit} bytes at most")


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
class Response:
    """A body is bytes, a part of a file, or pieces that come when they come: what is in a file that
    grows, or events. `size` is its length in bytes; pieces have none.
    """

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | File | Iterator[bytes] = b""
    size: int = 0

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Self:
        """With Content-Length set."""
        return cls(status, [*headers, ("Content-Length", str(len(body)))], body, len(body))


Handler = Callable[..., Response]
Receiver = Callable[..., Steps[Response]]
Place = Callable[..., Step]
"""Where a handler runs, for this request and its arguments."""
Need = Literal["repository", "upload", "catalog", "base", "open", "own", "operator"]
"""What a request must be allowed before its handler runs.

`repository`: the right to pull (GET, HEAD), push (POST, PUT, PATCH) or delete what its `name`
says. `upload`: to push there, whatever the method. `catalog`: nothing, the handler filters the
names. `base`: any identity that has shown credentials. `open`: nothing at all. `own`: the handler
asks `request.identity` itself. `operator`: the rights of an operator.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """A path, as a pattern whose groups are the handler's arguments, and its handlers."""

    pattern: re.Pattern[str]
    need: Need
    handlers: Mapping[str, Handler | Receiver]
    kind: str
    place: Place
    body: int  # bytes of a body that a handler, which is no Receiver, may get


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The handler of a request, its arguments, and what the request must be allowed."""

    route: Route
    handler: Handler | Receiver
    arguments: Mapping[str, str]

    @property
    def receives(self) -> bool:
        """Whether the handler takes a body of any size, piece by piece."""
        return isgeneratorfunction(self.handler)

    @property
    def place(self) -> Step:
        return self.route.place(**self.arguments)


def route(
    pattern: str,
    *,
    need: Need,
    place: Place | Step = Step.DISK,
    body: int = SMALL_BODY,
    **handlers: Handler | Receiver,
) -> Route:
    """`route("/v2/", need="base", GET=base)`; GET answers HEAD too unless HEAD is given.

    Its kind, for metrics and logs, is the name of the module that its handlers come from.
    """
    kind = next((each.__module__.rpartition(".")[2] for each in handlers.values()), "other")
    if "GET" in handlers:
        handlers.setdefault("HEAD", handlers["GET"])
    where = (lambda **_: place) if isinstance(place, Step) else place
    return Route(re.compile(pattern), need, handlers, kind, where, body)


def find(table: tuple[Route, ...], request: Request) -> RouteMatch:
    """The first route whose path fits. Raises Problem 404 or 405."""
    for entry in table:
        match = entry.pattern.fullmatch(request.path)
        if match is None:
            continue
        request.kind = entry.kind
        handler = entry.handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(sorted(entry.handlers))
            raise Problem(
                405,
                "UNSUPPORTED",
                f"{request.method} is not possible here",
                headers=(("Allow", allowed),),
            )
        return RouteMatch(entry, handler, match.groupdict())
    raise Problem(404, "UNSUPPORTED", "there is nothing at this path")


_RANGE = re.compile(r"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))\Z", re.IGNORECASE)
_LONGEST = 100  # characters of a Range header that we read


class NotSatisfiable(Exception):
    """No byte of the content lies in the range."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first and last byte that are asked for, clamped to `size`; None means all.

    A header that asks for several ranges or makes no sense is ignored (RFC 9110, 14.2). Raises
    NotSatisfiable where the range begins behind the end, of the content or its own.
    """
    if not header or len(header) > _LONGEST:
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


def may_change(if_match: str | None, if_none_match: str | None, etag: str) -> bool:
    """Whether the client wants what has `etag` now to change; empty is what is not there (RFC 9110,
    13.1.1 and 13.1.2).
    """
    if if_match is not None:
        wanted = {one.strip() for one in if_match.split(",")}
        if not etag or not wanted & {"*", etag}:
            return False
    return not etag or not unchanged(if_none_match, etag)


def unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this content already (RFC 9110, 13.1.2; weak comparison).

    A digest without quotes is taken too: docker-registry takes it, and clients send it.
    """
    if if_none_match is None:
        return False
    known = {one.strip().removeprefix("W/").strip('"') for one in if_none_match.split(",")}
    return etag.strip('"') in known or "*" in known
