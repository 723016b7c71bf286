"""Requests as values, and bodies that report how much of them was sent."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from shipline.content import CHUNK, Advance, Fetcher, LocalStore
from shipline.errors import NotFound
from shipline.oci import Descriptor
from shipline.registry.origin import Url


class Sink(Protocol):
    """Where a body is written."""

    def write(self, data: bytes | memoryview) -> None: ...

    def write_file(
        self, file: BinaryIO, offset: int, end: int, at: Callable[[int], None]
    ) -> None: ...


class Payload(Protocol):
    """A body that can be sent repeatedly; `length` is in bytes."""

    @property
    def length(self) -> int: ...

    def send(self, sink: Sink) -> None: ...


def _none() -> Mapping[str, str]:
    return types.MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Request:
    """One request, independent of any connection."""

    method: str
    url: Url
    headers: Mapping[str, str] = field(default_factory=_none, repr=False)
    body: bytes | Payload = field(default=b"", repr=False)

    @property
    def length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    def with_authorization(self, authorization: str) -> Self:
        """With an Authorization header, unchanged if `authorization` is empty."""
        if not authorization:
            return self
        return replace(self, headers={**self.headers, "Authorization": authorization})

    def redirected(self, url: Url, *, keep_body: bool) -> Self:
        """The same request for another URL: credentials never leave their origin."""
        dropped = set() if url.origin == self.url.origin else {"authorization", "cookie"}
        if not keep_body:
            dropped |= {"content-type", "content-range"}
        headers = {name: text for name, text in self.headers.items() if name.lower() not in dropped}
        if keep_body or self.method == "HEAD":
            return replace(self, url=url, headers=headers)
        return replace(self, method="GET", url=url, headers=headers, body=b"")


class Meter:
    """Turns positions into progress; bytes that are sent again count once."""

    def __init__(self, advance: Advance | None) -> None:
        self._advance = advance
        self._high = 0

    def at(self, position: int) -> None:
        if position > self._high:
            if self._advance is not None:
                self._advance(position - self._high)
            self._high = position


@dataclass(frozen=True, slots=True)
class BlobRange:
    """The bytes of a blob from `start` up to `end`; a `Payload`."""

    source: Fetcher
    target: Descriptor
    start: int
    end: int
    meter: Meter

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
                raise NotFound(f"{path} has the wrong size")
            sink.write_file(file, blob_range.start, blob_range.end, blob_range.meter.at)
    except FileNotFoundError:
        raise NotFound(f"{blob_range.target.digest} is not in its store") from None


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
