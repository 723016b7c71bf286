"""Caches that cannot be opened, and why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from shipline.content import Advance, Fetcher, Reader
from shipline.content.cache_store import Merge
from shipline.errors import ShiplineError, UsageError
from shipline.oci import Descriptor


class InvalidCacheAttributes(UsageError):
    """An attribute of a cache is missing, unknown or wrong."""

    code = "cache-attributes"


class UnusableCache:
    """A CacheStore that cannot be used, for the reason that it raises."""

    def __init__(self, reason: ShiplineError) -> None:
        self._reason = reason

    def documents(self) -> Sequence[bytes]:
        raise self._reason

    def update(self, merge: Merge) -> None:
        raise self._reason

    def exists(self, target: Descriptor) -> bool:
        raise self._reason

    def fetch(self, target: Descriptor) -> AbstractContextManager[Reader]:
        raise self._reason

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        raise self._reason
