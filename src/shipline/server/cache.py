"""In-memory caches over the records, so that a hot pull reads none of them."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from shipline.metadata import Key
from shipline.oci import Digest

_BUDGET = 64 << 20  # bytes of manifests
_OVERHEAD = 1024  # bytes that an entry takes beside its manifest
UPLOADING = "uploading"  # bytes of unfinished uploads
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest with the exact bytes that were pushed."""

    digest: Digest
    media_type: str
    raw: bytes


class RecordCache(Generic[Value]):
    """Never returns what a finished write replaced: a value loaded while any record was written is
    returned but not cached. Evicts in insertion order.
    """

    def __init__(
        self, record_kinds: tuple[str, ...], budget: int, cost: Callable[[Value], int]
    ) -> None:
        """`record_kinds` are the records that values are loaded from; the total `cost` stays below
        `budget`.
        """
        self._lock = threading.Lock()
        self._record_kinds = record_kinds
        self._budget = budget
        self._cost = cost
        self._entries: dict[tuple[str, str], Value] = {}
        self._size = 0
        self._writes = 0

    def get(
        self, name: str, reference: Digest | str, load: Callable[[], Value | None]
    ) -> Value | None:
        """The cached value for a tag or digest of a repository, else what `load` returns."""
        key = (name, str(reference))
        entry = self._entries.get(key)
        if entry is not None:
            return entry
        writes = self._writes
        loaded = load()
        if loaded is not None:
            with self._lock:
                if writes == self._writes and key not in self._entries:
                    self._store(key, loaded)
        return loaded

    def has(self, name: str, reference: str) -> bool:
        """Whether the value is cached now."""
        return (name, reference) in self._entries

    def forget(self, changed: Iterable[Key]) -> None:
        """Invalidate the entries that were loaded from changed records."""
        with self._lock:
            self._writes += 1
            for kind, *rest in changed:
                if kind in self._record_kinds:
                    self._drop((rest[0], rest[1]))

    def _store(self, key: tuple[str, str], entry: Value) -> None:
        self._entries[key] = entry
        self._size += self._cost(entry)
        while self._size > self._budget:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= self._cost(entry)


class ReadCache(RecordCache[StoredManifest]):
    """Manifests, at most `budget` bytes."""

    def __init__(self, budget: int = _BUDGET) -> None:
        super().__init__(("tag", "manifest"), budget, lambda entry: len(entry.raw) + _OVERHEAD)


class BlobSizes(RecordCache[int]):
    """Sizes of at most `limit` blobs."""

    def __init__(self, limit: int = 100_000) -> None:
        super().__init__(("blob",), limit, lambda size: 1)


class UsageTotals:
    """Usage summed by prefix of repository names, unfinished uploads included, in memory: a query
    costs the same for one repository and for many. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, counts: Mapping[Key, int]) -> None:
        """Apply the `usage` counters of a commit."""
        with self._lock:
            for kind, name, counter in (key for key in counts if key[0] == "usage"):
                for prefix in prefixes(name):
                    count = self._counts[prefix]
                    count[counter] += counts[kind, name, counter]
                    if not any(count.values()):
                        del self._counts[prefix]

    def upload(self, name: str, more: int) -> None:
        """Add bytes of an unfinished upload; negative once it has ended."""
        if more:
            self.add({("usage", name, UPLOADING): more})

    def total(self, prefix: str) -> Counter[str]:
        """The totals at and below a prefix: `entries.COUNTED`, and UPLOADING."""
        with self._lock:
            return Counter(self._counts[prefix]) if prefix in self._counts else Counter()


def prefixes(name: str) -> Iterator[str]:
    """A name and its path prefixes, longest first."""
    while name:
        yield name
        name = name.rpartition("/")[0]
