"""A build cache in an object storage: S3 and Azure differ in requests, not in what they keep.

Blobs have the digest as name below one prefix, cache documents the cache's name below another, as
BuildKit writes and reads them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from shipline.cachestores.transfer import PIECE, RangedReader, parts, read_document
from shipline.content import Advance, Fetcher, VerifiedReader
from shipline.content.cache_store import Merge
from shipline.errors import NotFound, RegistryError
from shipline.oci import Descriptor
from shipline.tasks import sleep

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

_ROUNDS = 12  # of reading and writing a document that others write too
_MOST_PARTS = 10_000  # of S3; Azure takes more


class ObjectState(Struct, frozen=True):
    """Size in bytes and time of the last change."""

    size: int
    modified: datetime

    @classmethod
    def of(cls, response: ClientResponse) -> ObjectState:
        """From the headers of a response to HEAD."""
        size = response.header("Content-Length")
        try:
            modified = parsedate_to_datetime(response.header("Last-Modified"))
        except (ValueError, OverflowError):
            modified = datetime.now(UTC)
        modified = modified if modified.tzinfo else modified.replace(tzinfo=UTC)
        return cls(int(size) if size.isdigit() else -1, modified)


class ObjectApi(Protocol):
    """Requests for objects by key. All raise AuthError and RegistryError."""

    name: str
    conditional: bool
    """False once the service was found not to know conditions."""

    def head(self, key: str) -> ObjectState | None:
        """None if there is no such object."""

    def get(self, key: str, start: int = 0, end: int = 0) -> ClientResponse:
        """A response with the bytes up to `end`, with all of them if it is 0: status 200, 206, 416.
        Raises NotFound.
        """

    def put(self, key: str, body: bytes, condition: Mapping[str, str]) -> bool:
        """Write an object; False if the headers of `condition` forbid it."""

    def upload(self, key: str, pieces: Iterator[bytes], advance: Advance) -> None:
        """Write an object in pieces."""

    def touch(self, key: str, state: ObjectState) -> None:
        """Make an object look as if it was written now."""


class ObjectKeys(Struct, frozen=True):
    """Where things are: what is put before a digest, and the keys of the cache's documents.

    Objects that were last changed before `refresh` are touched when a cache relies on them, so that
    rules that remove old objects keep them.
    """

    blobs: str
    documents: tuple[str, ...]
    refresh: timedelta = timedelta.max


class ObjectCache:
    """A CacheStore in an object storage."""

    def __init__(self, api: ObjectApi, keys: ObjectKeys) -> None:
        self._api = api
        self._keys = keys
        self._old: dict[str, ObjectState] = {}

    def exists(self, target: Descriptor) -> bool:
        key = self._key(target)
        state = self._api.head(key)
        if state is None or state.size != target.size:
            return False
        if datetime.now(UTC) - state.modified > self._keys.refresh:
            self._old[key] = state
        return True

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        key, whole = self._key(target), target.size == 0

        def get(start: int, end: int) -> ClientResponse:
            return self._api.get(key, start, end)

        if whole:
            self._api.get(key).close()
        ranges = RangedReader(get, target.size)
        with VerifiedReader(ranges, target, self._api.name) as reader:
            yield reader

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        key, report = self._key(target), advance or (lambda _: None)
        if self.exists(target):
            return
        with source.fetch(target) as reader:
            if target.size <= PIECE:
                self._api.put(key, reader.read(), {})
                report(target.size)
            else:
                size = max(PIECE, -(-target.size // _MOST_PARTS))
                self._api.upload(key, parts(reader, size), report)

    def documents(self) -> Sequence[bytes]:
        found = (self._read(key) for key in self._keys.documents)
        return [content for content, _ in filter(None, found)]

    def update(self, merge: Merge) -> None:
        """Objects that were found old are touched now: only who writes a cache relies on them."""
        for key in self._keys.documents:
            self._update(key, merge)
        while self._old:
            self._api.touch(*self._old.popitem())

    def _update(self, key: str, merge: Merge) -> None:
        """Without conditions, what was written is read again, and written until it stays."""
        written = False
        for attempt in range(1, _ROUNDS + 1):
            present = self._read(key)
            document = merge(present[0] if present else None)
            if written and present and document == present[0]:
                return
            condition = {"If-Match": present[1]} if present else {"If-None-Match": "*"}
            written = self._api.put(key, document, condition if self._api.conditional else {})
            if written and self._api.conditional:
                return
            sleep(random.uniform(0, 0.05 * attempt * attempt))
        raise RegistryError(
            f"{self._api.name}: other builds wrote the cache {_ROUNDS} times while it was updated",
            code="cache-contended",
            host="",
            hint="use a different name= for builds that run at the same time",
        )

    def _read(self, key: str) -> tuple[bytes, str] | None:
        """Content and ETag of a document; None if there is none."""
        try:
            return read_document(lambda: self._api.get(key))
        except NotFound:
            return None

    def _key(self, target: Descriptor) -> str:
        return f"{self._keys.blobs}{target.digest}"
