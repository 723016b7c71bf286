"""Where a build cache is kept: blobs by digest, and one document that says what they are.

The document is BuildKit's cache configuration (`application/vnd.buildkit.cacheconfig.v0`), JSON, in
the form that stands alone, as its gha, s3 and azblob caches store it: each of `layers` has
`annotations` with `mediaType`, `diffID`, `size` and `createdAt`. Stores that keep descriptors in a
manifest (registry, OCI layout) and images with an inline cache convert to and from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from shipline.content.protocols import Exister, Fetcher, Pusher

CACHE_DOCUMENT_LIMIT = 16 << 20
"""Bytes of a cache document; a bigger one is not read."""

Merge = Callable[[bytes | None], bytes]
"""The new cache document, made from the present one, None if there is none."""


class CacheReader(Fetcher, Exister, Protocol):
    """A build cache to read from. Safe to use from any thread.

    Raises RegistryError, AuthError, NotFound, ContentError, or another ShiplineError: the caller
    turns all of them into warnings.
    """

    def documents(self) -> Sequence[bytes]:
        """The cache documents to read, the best first; none if there is no cache yet.

        A store that has several places to read from (the branches of gha) returns one for each.
        """


class CacheStore(CacheReader, Pusher, Protocol):
    """A build cache under its name: the tag of a registry, the scope of gha, the name of s3.

    Blobs are content like any other: `fetch` verifies what it reads, `push` skips what is there.
    """

    def update(self, merge: Merge) -> None:
        """Replace the document by what `merge` makes of the present one; every blob that it lists
        was pushed before.

        If another writer replaces it meanwhile, the store reads and merges again, so that no
        writer removes what another one added: by a conditional request (an ETag, a reserved
        number) where the protocol has one, else by reading again what was written.
        """


OpenCache = Callable[[str, Mapping[str, str]], CacheStore]
"""Opens the cache of a type (registry, local, gha, s3, azblob) with its attributes, as buildx has
them; makes no request. Raises UsageError for a type or an attribute that does not exist, and for
one that is missing.
"""
