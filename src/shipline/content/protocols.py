"""What can be done with content, one verb each; a Repository can do all of it.

Manifests and blobs go the same way: the media type of a descriptor says which it is. Stores,
registries and caches implement these; everything above is written against them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from shipline.oci import Descriptor, Digest

Advance = Callable[[int], None]
"""Called with a number of bytes that were moved since the last call."""


class Reader(Protocol):
    """Bytes in order. The last read raises DigestMismatch unless they were the promised ones."""

    def read(self, size: int = -1, /) -> bytes: ...


class Fetcher(Protocol):
    def fetch(self, target: Descriptor) -> AbstractContextManager[Reader]:
        """Open the content, verified while it is read. Raises NotFound."""


class Exister(Protocol):
    def exists(self, target: Descriptor) -> bool:
        """Whether the content is there, whole."""


class Ingest(Protocol):
    """Content on its way in, whose digest is known only at the end."""

    @property
    def digest(self) -> Digest:
        """The sha256 of what was written so far."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def write(self, data: bytes) -> None: ...

    def commit(self, target: Descriptor) -> None:
        """Make the bytes visible under `target`. Raises DigestMismatch if they are others."""


class Ingester(Protocol):
    def ingest(self) -> AbstractContextManager[Ingest]:
        """A place for new content; what was not committed when the block ends never existed."""


class Pusher(Protocol):
    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        """Store the content, read from `source`; does nothing where it exists already."""


class Mounter(Protocol):
    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        """Take the blob over from `source` without moving bytes; False where it is no other
        repository of the same registry, or that refused.
        """


class Resolver(Protocol):
    def resolve(self, reference: str) -> Descriptor:
        """The descriptor behind a tag or a digest. Raises NotFound."""


class Tagger(Protocol):
    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        """Give a manifest a name, moving the name if it exists."""


class Store(Fetcher, Exister, Ingester, Pusher, Protocol):
    """A place that holds content."""


class Repository(Store, Mounter, Resolver, Tagger, Protocol):
    """Content with names."""
