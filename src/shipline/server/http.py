"""Requests, answers and a routing table over WSGI (PEP 3333); knows nothing of registries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Protocol, Self
from urllib.parse import parse_qsl

from shipline.server.identity import NOBODY, Identity
from shipline.server.problems import Problem

CHUNK = 1 << 20  # bytes of the largest answer that is sent in one piece
_PIECE = 256 << 10  # bytes taken or sent at a time; four times as many cost speed and memory
Headers = list[tuple[str, str]]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_HOSTLESS = ("HTTP/1.0", "HTTP/1")  # granian writes the second for the first
_SAFE = ("GET", "HEAD", "OPTIONS")
_LINE = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class StartResponse(Protocol):
    def __call__(self, status: str, headers: Headers, /) -> object: ...


Environ = dict[str, Any]
WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]


class Request:
    """One request. `body` yields what arrives; a connection that breaks looks like the end."""

    __slots__ = (
        "_environ",
        "_id",
        "_input",
        "address",
        "identity",
        "kind",
        "method",
        "path",
        "repository",
        "taken",
    )

    def __init__(self, environ: Environ) -> None:
        self._environ = environ
        self._input = environ.get("wsgi.input")
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ["PATH_INFO"]
        self.address: str = environ.get("REMOTE_ADDR") or ""  # the peer's, or what it vouches for
        self.taken = 0  # bytes of the body read so far
        self.identity: Identity = NOBODY  # until a guard has admitted it
        self.kind = "other"  # of its route, once there is one
        self.repository = ""  # as the path says, unchecked
        self._id = ""

    def check_framing(self) -> None:
        """What the server in front lets through (RFC 9112, 3.2 and 6.1).

        Raises Problem 400 unless one host is named, 501 for a body that is coded, not only chunked.
        """
        host = self._environ.get("HTTP_HOST") or ""
        if "," in host or (not host and self._environ.get("SERVER_PROTOCOL") not in _HOSTLESS):
            raise Problem(400, "UNSUPPORTED", "a request names one host")
        coding = self._environ.get("HTTP_TRANSFER_ENCODING")
        if coding is not None and coding.strip().lower() != "chunked":
            raise Problem(501, "UNSUPPORTED", "a body may be chunked, and coded in no other way")

    @property
    def changes(self) -> bool:
        """Whether the method may change something (RFC 9110, 9.2.1)."""
        return self.method not in _SAFE

    def check_origin(self) -> None:
        """A change that a page of another site asks a browser for: it would bring the credentials
        which the browser keeps, or the address from which an open node takes everything.

        Browsers say so (Fetch Metadata; RFC 6454), other clients say nothing. Raises Problem 403.
        """
        site, origin = self.header("Sec-Fetch-Site"), self.header("Origin")
        if not self.changes or site in ("same-origin", "none"):
            return
        if site or (origin and origin.partition("://")[2] != self.header("Host")):
            raise Problem(403, "DENIED", "the request comes from a page of another site")

    def header(self, name: str) -> str | None:
        """The value of a header other than Content-Type and Content-Length."""
        found: str | None = self._environ.get(_variable(name))
        return found

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
        found: str = self._environ.get("CONTENT_TYPE") or ""
        return found.partition(";")[0].strip()

    @property
    def content_length(self) -> int | None:
        """What the client promised, None for a body of unknown length or without one."""
        text = self._environ.get("CONTENT_LENGTH")
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,18}", text):
            raise Problem(400, "SIZE_INVALID", "Content-Length is not a number")
        return int(text)

    @property
    def has_body(self) -> bool:
        return bool(self.content_length) or self.header("Transfer-Encoding") is not None

    @property
    def scheme(self) -> str:
        """http or https, as this server was asked."""
        found: str = self._environ.get("wsgi.url_scheme") or "http"
        return found

    @property
    def query_string(self) -> str:
        found: str = self._environ.get("QUERY_STRING") or ""
        return found

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

    def body(self) -> Iterator[bytes]:
        """The body in pieces, which are small: a crowd of uploads holds one each."""
        if self._input is None:
            return
        while data := self._input.read(_PIECE):
            self.taken += len(data)
            yield data

    def read(self, limit: int) -> bytes:
        """The whole body. Raises Problem 413 for more than `limit` bytes, 400 for a cut one."""
        expected = self.content_length
        if expected is not None and expected > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        for data in self.body():
            parts.append(data)
            if self.taken > limit:
                raise _too_large(limit)
        if expected is not None and self.taken != expected:
            raise Problem(400, "SIZE_INVALID", f"{self.taken} bytes came instead of {expected}")
        return b"".join(parts)

    def drain(self, limit: int) -> None:
        """Take what the client is still sending, so that it can read a refusal."""
        waits = (self.header("Expect") or "").lower() == "100-continue" and not self.taken
        if not self.has_body or waits:
            return
        limit += self.taken
        for _ in self.body():
            if self.taken > limit:
                return


def _too_large(limit: int) -> Problem:
    return Problem(413, "SIZE_INVALID", f"a manifest may have {limit} bytes at most")


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=1000, errors="strict")
    except ValueError:
        raise Problem(400, "UNSUPPORTED", "the query string cannot be read") from None


_variables: dict[str, str] = {}


def _variable(name: str) -> str:
    found = _variables.get(name)
    if found is None:
        found = _variables[name] = "HTTP_" + name.upper().replace("-", "_")
    return found


class FileBody:
    """`size` bytes of an open file from `start`; closes the file."""

    __slots__ = ("_fd", "_left", "_position")

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._position = start
        self._left = size

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        data = os.pread(self._fd, min(_PIECE, self._left), self._position) if self._left else b""
        if not data:
            raise StopIteration
        self._position += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `body` is sent as it is, `size` is its length in bytes."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | FileBody = b""
    size: int = 0

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Self:
        """With Content-Length set."""
        return cls(status, [*headers, ("Content-Length", str(len(body)))], body, len(body))

    def send(self, method: str, start_response: StartResponse) -> Iterable[bytes]:
        """Hand the answer to the WSGI server; HEAD gets the headers alone."""
        start_response(_LINE[self.status], self.headers)
        if isinstance(self.body, bytes):
            return [b"" if method == "HEAD" else self.body]
        if method != "HEAD":
            return self.body
        self.body.close()
        return [b""]


Handler = Callable[..., Response]
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
    handlers: Mapping[str, Handler]
    kind: str


@dataclass(frozen=True, slots=True)
class Found:
    """The handler of a request, its arguments, and what the request must be allowed."""

    handler: Handler
    arguments: Mapping[str, str]
    need: Need


def route(pattern: str, *, need: Need, **handlers: Handler) -> Route:
    """`route("/v2/", need="base", GET=base)`; GET answers HEAD too unless HEAD is given.

    Its kind, for metrics and logs, is the name of the module that its handlers come from.
    """
    kind = next((each.__module__.rpartition(".")[2] for each in handlers.values()), "other")
    if "GET" in handlers:
        handlers.setdefault("HEAD", handlers["GET"])
    return Route(re.compile(pattern), need, handlers, kind)


def find(table: tuple[Route, ...], request: Request) -> Found:
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
        return Found(handler, match.groupdict(), entry.need)
    raise Problem(404, "UNSUPPORTED", "there is nothing at this path")
