"""Manifests that were asked for lately, ready to be sent, so that a hot pull touches no disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shipline.metadata import Key
from shipline.oci import Digest

_BUDGET = 64 << 20  # bytes of manifests
_OVERHEAD = 1024  # bytes that an entry costs beside its manifest


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it was pushed."""

    digest: Digest
    media_type: str
    raw: bytes


class Cache:
    """Never holds what a finished write replaced: a value that was read while anything was
    written is returned and not kept. When full, what came first goes first.
    """

    def __init__(self, budget: int = _BUDGET) -> None:
        self._lock = threading.Lock()
        self._budget = budget
        self._entries: dict[tuple[str, str], Stored] = {}
        self._size = 0
        self._writes = 0

    def get(self, name: str, reference: str, load: Callable[[], Stored | None]) -> Stored | None:
        """What is kept for a tag or digest of a repository, else what `load` finds."""
        key = (name, reference)
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

    def forget(self, changed: Iterable[Key]) -> None:
        """Records were written: drop what was read from them."""
        with self._lock:
            self._writes += 1
            for kind, *rest in changed:
                if kind in ("tag", "manifest"):
                    self._drop((rest[0], rest[1]))

    def _keep(self, key: tuple[str, str], entry: Stored) -> None:
        self._entries[key] = entry
        self._size += len(entry.raw) + _OVERHEAD
        while self._size > self._budget:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry.raw) + _OVERHEAD


class Sizes:
    """Sizes of blobs that were asked for lately: with the same promise as Cache."""

    def __init__(self, limit: int = 100_000) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._sizes: dict[tuple[str, Digest], int] = {}
        self._writes = 0

    def get(self, name: str, digest: Digest, load: Callable[[], int | None]) -> int | None:
        """What is kept for a blob of a repository, else what `load` finds."""
        key = (name, digest)
        found = self._sizes.get(key)
        if found is not None:
            return found
        writes = self._writes
        loaded = load()
        if loaded is not None:
            with self._lock:
                if writes == self._writes:
                    while len(self._sizes) >= self._limit:
                        del self._sizes[next(iter(self._sizes))]
                    self._sizes[key] = loaded
        return loaded

    def forget(self, changed: Iterable[Key]) -> None:
        """Records were written: drop what was read from them."""
        with self._lock:
            self._writes += 1
            for kind, *rest in changed:
                if kind == "blob":
                    self._sizes.pop((rest[0], Digest.parse(rest[1])), None)
