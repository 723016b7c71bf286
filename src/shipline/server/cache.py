"""What was asked for lately, kept ready, so that a hot pull asks no record."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from shipline.metadata import Key
from shipline.oci import Digest

_BUDGET = 64 << 20  # bytes of manifests
_OVERHEAD = 1024  # bytes that an entry costs beside its manifest
UPLOADING = "uploading"  # bytes of uploads that have not ended
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was pushed."""

    digest: Digest
    media_type: str
    raw: bytes


class Remembered(Generic[Value]):
    """Never holds what a finished write replaced: a value that was read while anything was
    written is returned and not kept. When full, what came first goes first.
    """

    def __init__(self, kinds: tuple[str, ...], budget: int, cost: Callable[[Value], int]) -> None:
        """`kinds` of records are those that values are read from; `cost` of all stays below
        `budget`.
        """
        self._lock = threading.Lock()
        self._kinds = kinds
        self._budget = budget
        self._cost = cost
        self._entries: dict[tuple[str, str], Value] = {}
        self._size = 0
        self._writes = 0

    def get(
        self, name: str, reference: Digest | str, load: Callable[[], Value | None]
    ) -> Value | None:
        """What is kept for a tag or digest of a repository, else what `load` finds."""
        key = (name, str(reference))
        found = self._entries.get(key)
        if found is not None:
            return found
        writes = self._writes
        loaded = load()
        if loaded is not None:
            with self._lock:
                if writes == self._writes and key not in self._entries:
                    self._keep(key, loaded)
        return loaded

    def has(self, name: str, reference: str) -> bool:
        """Whether `get` needs no `load`, as things are."""
        return (name, reference) in self._entries

    def forget(self, changed: Iterable[Key]) -> None:
        """Records were written: drop what was read from them."""
        with self._lock:
            self._writes += 1
            for kind, *rest in changed:
                if kind in self._kinds:
                    self._drop((rest[0], rest[1]))

    def _keep(self, key: tuple[str, str], entry: Value) -> None:
        self._entries[key] = entry
        self._size += self._cost(entry)
        while self._size > self._budget:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= self._cost(entry)


class ReadCache(Remembered[StoredManifest]):
    """Manifests, at most `budget` bytes of them."""

    def __init__(self, budget: int = _BUDGET) -> None:
        super().__init__(("tag", "manifest"), budget, lambda entry: len(entry.raw) + _OVERHEAD)


class Sizes(Remembered[int]):
    """Sizes of blobs, at most `limit` of them."""

    def __init__(self, limit: int = 100_000) -> None:
        super().__init__(("blob",), limit, lambda size: 1)


class Totals:
    """What all repositories at and below a prefix of names hold together, and what uploads bring to
    them, kept in memory: a question costs the same for one repository and for many. Safe to use
    from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, counts: Mapping[Key, int]) -> None:
        """The additions of a commit: those of `usage` count."""
        with self._lock:
            for kind, name, what in (key for key in counts if key[0] == "usage"):
                for prefix in prefixes(name):
                    found = self._counts[prefix]
                    found[what] += counts[kind, name, what]
                    if not any(found.values()):
                        del self._counts[prefix]

    def upload(self, name: str, more: int) -> None:
        """Bytes that are on their way into a repository; negative once they are not any more."""
        if more:
            self.add({("usage", name, UPLOADING): more})

    def below(self, prefix: str) -> Counter[str]:
        """By the words of `entries.COUNTED`, and UPLOADING."""
        with self._lock:
            return Counter(self._counts[prefix]) if prefix in self._counts else Counter()


def prefixes(name: str) -> Iterator[str]:
    """A name and what it begins with, component by component; the longest first."""
    while name:
        yield name
        name = name.rpartition("/")[0]
