"""An ordered map from keys to bytes whose writes are atomic and durable.

That is little enough for every embedded store (SQLite, RocksDB, LMDB), and enough for a registry:
a relation is a key of several parts, an index is a second key written in the same `write`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

Key = tuple[str, ...]
"""The parts of a key; a part holds no NUL. Keys are ordered by their parts as bytes."""

NOTHING: Mapping[Key, int] = {}
_PAGE = 1000  # records


class DamagedRecords(OSError):
    """The store's own files are not what it wrote."""


class Records(Protocol):
    """Safe to use from any thread. Every method raises OSError where the disk fails it."""

    def get(self, key: Key) -> bytes | None:
        """The value, None where there is none."""

    def scan(self, prefix: Key, *, after: Key = (), limit: int = _PAGE) -> list[tuple[Key, bytes]]:
        """The first `limit` records below `prefix`, in order; the prefix () is all records.

        The keys come without the prefix; only those greater than `after`, also without it.
        """

    def write(
        self,
        changes: Mapping[Key, bytes | None],
        *,
        add: Mapping[Key, int] = NOTHING,
        durable: bool = True,
    ) -> None:
        """Set values, or delete where the value is None: all or none, on the disk on return.

        `add` is added to counters, records whose value is a decimal number; one that is not there
        counts as 0. No two writes see the same old number. A write that is not `durable` survives
        the death of this process but perhaps not that of the machine; a later durable one takes
        it along. Writes that come at once from several threads share one trip to the disk.
        """

    def close(self) -> None:
        """Release the files. Nothing that `write` returned from depends on it."""


def encode(key: Key) -> bytes:
    """The key as stores keep it: its parts as UTF-8, separated by NUL."""
    text = "\0".join(key)
    if text.count("\0") != len(key) - 1:
        raise ValueError(f"a part of a key holds NUL: {key!r}")
    return text.encode()


def bounds(prefix: Key, after: Key) -> tuple[bytes, bytes, int]:
    """What a scan visits: keys greater than the first, less than the second, and how much of each
    key is the prefix.
    """
    if not prefix:
        return encode(after) if after else b"", b"\xff", 0
    start = encode((*prefix, ""))
    beyond = encode((*prefix, *after)) if after else start
    return beyond, start[:-1] + b"\1", len(start)


def decode(key: bytes, cut: int = 0) -> Key:
    """The parts of a key, without its first `cut` bytes."""
    return tuple(key[cut:].decode().split("\0"))


def walk(records: Records, prefix: Key) -> Iterator[tuple[Key, bytes]]:
    """All records below `prefix`, a page at a time; sees some of the writes made meanwhile."""
    after: Key = ()
    while page := records.scan(prefix, after=after):
        yield from page
        after = page[-1][0]
