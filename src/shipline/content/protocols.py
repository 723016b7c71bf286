"""Protocols for content, one verb each; a Repository has them all.

Manifests and blobs are handled alike: the media type of a descriptor tells them apart. Stores,
registries and caches implement these protocols; everything above depends on them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from shipline.oci import Descriptor, Digest

Advance = Callable[[int], None]
"""Called with the number of bytes transferred since the last call."""


class Reader(Protocol):
    """Bytes in order. The last read raises DigestMismatch if they do not match the digest."""

    def read(self, size: int = -1, /) -> bytes: ...


class Fetcher(Protocol):
    def fetch(self, target: Descriptor) -> AbstractContextManager[Reader]:
        """Open the content, verified while it is read. Raises NotFound."""


@runtime_checkable
class RestFetcher(Protocol):
    def fetch_rest(self, target: Descriptor, start: int) -> AbstractContextManager[Reader]:
        """Open the content from byte `start` on, not verified. Raises NotFound."""


@runtime_checkable
class Wrapper(Protocol):
    """A fetcher that reads from another one."""

    @property
    def wrapped(self) -> Fetcher: ...


def unwrapped(source: Fetcher) -> Fetcher:
    """Where `source` reads from in the end."""
    while isinstance(source, Wrapper):
        source = source.wrapped
    return source


class Exister(Protocol):
    def exists(self, target: Descriptor) -> bool:
        """Whether the complete content is stored."""


class Upload(Protocol):
    """New content, whose digest is known only at the end."""

    def write(self, data: bytes) -> None: ...

    def commit(self, target: Descriptor) -> None:
        """Publish the bytes as `target`. Raises DigestMismatch if they do not match."""


class Ingest(Upload, Protocol):
    """New content that is hashed while it is written."""

    @property
    def digest(self) -> Digest:
        """The sha256 of the bytes written so far."""

    @property
    def size(self) -> int:
        """Bytes written so far."""


class Ingester(Protocol):
    def ingest(self) -> AbstractContextManager[Ingest]:
        """Open new content, discarded unless committed before the block ends."""


@runtime_checkable
class Uploader(Protocol):
    def upload(self) -> AbstractContextManager[Upload]:
        """An `ingest` of bytes that are hashed elsewhere: who stores them compares the digest."""


@runtime_checkable
class Assumer(Protocol):
    def assumes(self, target: Descriptor, source: Fetcher) -> bool:
        """Whether the content is believed to be stored, so that it need not be looked for: if it
        is missing after all, it is pushed from `source` before a manifest names it.
        """


class Pusher(Protocol):
    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        """Store the content, read from `source`, unless it exists."""


class Mounter(Protocol):
    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        """Mount the blob from `source` without transfer; False if `source` is not another
        repository of the same registry, or the registry declined.
        """


class Resolver(Protocol):
    def resolve(self, reference: str) -> Descriptor:
        """The descriptor of a tag or a digest. Raises NotFound."""


class Tagger(Protocol):
    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        """Tag a manifest, moving the tag if it exists."""


class Swapper(Protocol):
    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        """Tag a manifest if the tag points to `before`, None for no such tag; whether it did.

        Where the store has no conditional write, the tag is compared right before it is moved.
        """


class Store(Fetcher, Exister, Ingester, Pusher, Protocol):
    """Content that can be read and written."""


class Repository(Store, Mounter, Resolver, Tagger, Protocol):
    """A store with tags."""
