"""URLs, origins and requests as values. URLs are parsed strictly, because servers send them too."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, Self
from urllib.parse import quote, urlencode, urljoin, urlsplit

from msgspec import Struct, field

from shipline.content import CHUNK, Advance, Fetcher, LocalStore
from shipline.errors import NotFound, RegistryError
from shipline.oci import Descriptor
from shipline.values import Redacted, replace

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\.?\Z|[0-9a-f:.]*:[0-9a-f:.]*\Z")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_TARGET = "/?&=%:@!$'()*+,;~-._[]"
_LONGEST = 16 << 10  # bytes


class Origin(Struct, frozen=True, order=True):
    """Scheme, host and port (RFC 6454): credentials are bound to one."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host` or `host:port`, without the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Url(Struct, frozen=True):
    """`target` is path and query as on the request line."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises RegistryError for anything but http(s)://host[:port][/path][?query]."""
        if len(text) > _LONGEST or _UNSAFE.search(text):
            raise _bad(text, "it is too long, or has spaces or control characters")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            # the error may quote a part of a password
            raise _bad(text, "it contains credentials" if "@" in text else str(error)) from None
        if parts.scheme not in _PORTS:
            raise _bad(text, "the scheme is not http or https")
        if "@" in parts.netloc:
            raise _bad(text, "it contains credentials")
        if not _HOST.match(host) or port == 0:
            raise _bad(text, "the host is not a host name")
        target = quote(parts.path or "/", _TARGET, errors="surrogateescape")
        if parts.query:
            target += "?" + quote(parts.query, _TARGET, errors="surrogateescape")
        return cls(Origin(parts.scheme, host, port or _PORTS[parts.scheme]), target)

    def join(self, location: str) -> Self:
        """`location`, absolute or relative, resolved against this URL (RFC 3986, section 5)."""
        if _UNSAFE.search(location):
            raise _bad(location, "it has spaces or control characters")
        try:
            return self.parse(urljoin(str(self), location))
        except ValueError as error:
            raise _bad(location, str(error)) from None

    def with_query(self, *parameters: tuple[str, str]) -> Self:
        """With these query parameters appended."""
        if not parameters:
            return self
        mark = "&" if "?" in self.target else "?"
        return replace(self, target=self.target + mark + urlencode(parameters, safe=":/"))

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def _bad(text: str, reason: str) -> RegistryError:
    shown = re.sub(r"^([a-z+.-]*://)?.*@", r"\1...@", text, flags=re.I | re.S)[:120].split("?")[0]
    return RegistryError(f"not a usable URL: {shown!r}: {reason}", code="url-invalid", host="")


class Sink(Protocol):
    """Where a body is written."""

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`."""

    def write_file(self, file: BinaryIO, offset: int, end: int, at: Callable[[int], None]) -> None:
        """Write the bytes from `offset` up to `end`; `at` gets each position that is reached."""


class Payload(Protocol):
    """A body that can be sent repeatedly; `length` is in bytes."""

    @property
    def length(self) -> int: ...

    def send(self, sink: Sink) -> None:
        """Write the whole body."""


def _none() -> Mapping[str, str]:
    return types.MappingProxyType({})


class ClientRequest(Redacted, frozen=True):
    """One request, independent of any connection."""

    hidden: ClassVar = frozenset({"headers", "body"})

    method: str
    url: Url
    headers: Mapping[str, str] = field(default_factory=_none)
    body: bytes | Payload = b""

    @property
    def length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    def with_authorization(self, authorization: str) -> Self:
        """With an Authorization header, unchanged if `authorization` is empty."""
        if not authorization:
            return self
        return replace(self, headers={**self.headers, "Authorization": authorization})

    def redirected(self, url: Url, *, keep_body: bool) -> Self:
        """The same request for another URL: credentials never leave their origin, nor does the
        name of the trace.
        """
        leaves = url.origin != self.url.origin
        dropped = {"authorization", "cookie", "traceparent"} if leaves else set()
        if not keep_body:
            dropped |= {"content-type", "content-range"}
        headers = {name: text for name, text in self.headers.items() if name.lower() not in dropped}
        if keep_body or self.method == "HEAD":
            return replace(self, url=url, headers=headers)
        return replace(self, method="GET", url=url, headers=headers, body=b"")


class UploadProgress:
    """Turns positions into progress; bytes that are sent again count once."""

    def __init__(self, advance: Advance | None) -> None:
        self._advance = advance
        self._high = 0

    def at(self, position: int) -> None:
        """Report the bytes up to `position` that were not reported before."""
        if position > self._high:
            if self._advance is not None:
                self._advance(position - self._high)
            self._high = position


class BlobRange(Struct, frozen=True):
    """The bytes of a blob from `start` up to `end`; a `Payload`."""

    source: Fetcher
    target: Descriptor
    start: int
    end: int
    meter: UploadProgress

    @property
    def length(self) -> int:
        return self.end - self.start

    def send(self, sink: Sink) -> None:
        """Write the range. Raises NotFound if the source has lost the blob."""
        path = _file(self.source, self.target)
        if path is not None:
            _send_file(path, self, sink)
        else:
            _send_from_reader(self, sink, self.meter.at)


def _file(source: Fetcher, target: Descriptor) -> Path | None:
    """The file that holds the blob. The registry verifies the digest, so we need not read it."""
    return source.path(target.digest) if isinstance(source, LocalStore) else None


def _send_file(path: Path, blob_range: BlobRange, sink: Sink) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != blob_range.target.size:
                raise NotFound(f"{path} has the wrong size", code="content-gone")
            sink.write_file(file, blob_range.start, blob_range.end, blob_range.meter.at)
    except FileNotFoundError:
        raise NotFound(
            f"{blob_range.target.digest} is not in its store", code="content-gone"
        ) from None


def _send_from_reader(blob_range: BlobRange, sink: Sink, at: Callable[[int], None]) -> None:
    position = 0
    with blob_range.source.fetch(blob_range.target) as reader:
        while position < blob_range.end:
            data = reader.read(CHUNK)
            if not data:
                return
            chunk_start, position = position, position + len(data)
            if position > blob_range.start:
                lower, upper = (
                    max(0, blob_range.start - chunk_start),
                    min(len(data), blob_range.end - chunk_start),
                )
                sink.write(data if upper - lower == len(data) else memoryview(data)[lower:upper])
                at(min(position, blob_range.end))
