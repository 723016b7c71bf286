"""An ordered key-value store with atomic, durable writes.

Any embedded store can implement it (SQLite, RocksDB, LMDB): a relation is a key of several parts,
an index is a second key in the same `write`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

Key = tuple[str, ...]
"""The parts of a key, without NUL. Keys are ordered by their parts as bytes."""

NOTHING: Mapping[Key, int] = {}
_PAGE = 1000  # records


class DamagedRecords(OSError):
    """The store's files are corrupt."""


class Records(Protocol):
    """Safe to use from any thread. Methods raise OSError on I/O errors."""

    def get(self, key: Key) -> bytes | None:
        """The value, None if there is none."""

    def scan(self, prefix: Key, *, after: Key = (), limit: int = _PAGE) -> list[tuple[Key, bytes]]:
        """The first `limit` records below `prefix` in order; () is all records.

        Keys are returned without the prefix; only those greater than `after` (also without it).
        """

    def write(
        self,
        changes: Mapping[Key, bytes | None],
        *,
        add: Mapping[Key, int] = NOTHING,
        durable: bool = True,
    ) -> None:
        """Set values, or delete if None: atomic, and durable on return.

        `add` increments counters atomically: records with a decimal value, 0 if missing. Without
        `durable` a write survives the process, but the machine only after a later durable one.
        Concurrent writes share one sync.
        """

    def close(self) -> None:
        """Release the files; completed writes do not depend on it."""


def encode(key: Key) -> bytes:
    """The stored form of a key: its parts in UTF-8, separated by NUL."""
    text = "\0".join(key)
    if text.count("\0") != len(key) - 1:
        raise ValueError(f"a part of a key holds NUL: {key!r}")
    return text.encode(errors="surrogateescape")


def bounds(prefix: Key, after: Key) -> tuple[bytes, bytes, int]:
    """The exclusive bounds of a scan, and the length of the prefix."""
    if not prefix:
        return encode(after) if after else b"", b"\xff", 0
    start = encode((*prefix, ""))
    beyond = encode((*prefix, *after)) if after else start
    return beyond, start[:-1] + b"\1", len(start)


def decode(key: bytes, cut: int = 0) -> Key:
    """The parts of a key, without its first `cut` bytes."""
    return tuple(key[cut:].decode(errors="surrogateescape").split("\0"))


def walk(records: Records, prefix: Key, after: Key = ()) -> Iterator[tuple[Key, bytes]]:
    """All records below `prefix`, those greater than `after`, read in pages; not a snapshot."""
    while page := records.scan(prefix, after=after):
        yield from page
        after = page[-1][0]
