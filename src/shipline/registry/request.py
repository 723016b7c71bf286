"""Requests as values."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Protocol, Self

from shipline.registry.origin import Url


class Sink(Protocol):
    """Where a body is written to."""

    def write(self, data: bytes | memoryview) -> None: ...

    def write_file(
        self, file: BinaryIO, offset: int, end: int, at: Callable[[int], None]
    ) -> None: ...


class Payload(Protocol):
    """A body that can be sent again from its beginning; `length` is in bytes."""

    @property
    def length(self) -> int: ...

    def send(self, sink: Sink) -> None: ...


def _none() -> Mapping[str, str]:
    return types.MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with nothing in it that depends on the connection."""

    method: str
    url: Url
    headers: Mapping[str, str] = field(default_factory=_none, repr=False)
    body: bytes | Payload = field(default=b"", repr=False)

    @property
    def length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    def bearing(self, authorization: str) -> Self:
        """With credentials; without a change for the empty text."""
        if not authorization:
            return self
        return replace(self, headers={**self.headers, "Authorization": authorization})

    def redirected(self, url: Url, *, keep_body: bool) -> Self:
        """The same question to another URL: credentials stay at the origin they are for."""
        dropped = set() if url.origin == self.url.origin else {"authorization", "cookie"}
        if not keep_body:
            dropped |= {"content-type", "content-range"}
        headers = {name: text for name, text in self.headers.items() if name.lower() not in dropped}
        if keep_body or self.method == "HEAD":
            return replace(self, url=url, headers=headers)
        return replace(self, method="GET", url=url, headers=headers, body=b"")
