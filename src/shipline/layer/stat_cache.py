"""What is known of the files of one directory tree by their stats: digests of those that have not
changed, in a file between builds.
"""

from __future__ import annotations

import hashlib
import marshal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from shipline.content import read_file, seal, unseal
from shipline.files import replace_file

Stat = tuple[str, int, int, int, int, int, int, int, int]
"""Name, mode with type, uid, gid, size, mtime and ctime in nanoseconds, inode, links. marshal knows
no named tuples, so the fields have constants.
"""
NAME: Final = 0
MODE: Final = 1
SIZE: Final = 4
MTIME_NS: Final = 5
CTIME_NS: Final = 6
INODE: Final = 7
LINKS: Final = 8

Directories = dict[str, tuple[list[Stat], bool]]
"""The stats of the entries of each directory, sorted by name; and whether these are all."""

_Record = tuple[bytes, list[bytes]]  # packed stats, which compare faster than they load
_Cached = tuple[dict[str, _Record], dict[bytes, str]]

_KIND = b"shipline-stat-5\n"
_TICK_NS = 20_000_000  # file times advance with the timer interrupt: 10 ms at its slowest
_KEPT_TREES = 64


class StatCache:
    """Cached contents of the directories of one root, and digests of its trees. Safe to use from
    any thread.
    """

    def __init__(self, file: Path | None = None) -> None:
        """The cache in `file`, which may be absent or damaged."""
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._file = file
        self._directories, self._trees = ({}, {}) if file is None else _load(file)
        self.changed = False

    @classmethod
    @contextmanager
    def open(cls, file: Path) -> Iterator[StatCache]:
        """The cache in `file`; saved at the end of the block."""
        cache = cls(file)
        yield cache
        cache.save()

    def save(self) -> None:
        """Write what is new to the file; errors are ignored.

        If two processes save at once, one wins, and the other's entries are recomputed next time.
        """
        with self._saving:
            if self.changed and self._file is not None:
                self.changed = False  # at once: what comes meanwhile is saved the next time
                trees = dict(list(self._trees.items())[-_KEPT_TREES:])
                _save(self._file, (self._directories, trees))

    def find(self, directory: str, stats: list[Stat]) -> list[bytes | None]:
        """The cached content of each of `stats`, sorted by name; None for files to read."""
        with self._lock:
            record = self._directories.get(directory)
        if record is None:
            return [None] * len(stats)
        if record[0] == _pack(stats):
            return [content or None for content in record[1]]
        known = dict(zip(_unpack(record[0]), record[1], strict=True))
        return [known.get(stat) or None for stat in stats]

    def put(
        self,
        directory: str,
        stats: list[Stat],
        contents: list[bytes],
        *,
        since_ns: int,
        complete: bool,
    ) -> None:
        """Cache contents read after `since_ns`; `complete` if `stats` is the whole directory."""
        limit = since_ns - _TICK_NS
        kept = [
            b"" if stat[CTIME_NS] >= limit or stat[MTIME_NS] >= limit else content
            for stat, content in zip(stats, contents, strict=True)
        ]
        with self._lock:
            if not complete and directory in self._directories:
                stats, kept = _merged(self._directories[directory], stats, kept)
            self._directories[directory] = (_pack(stats), kept)
            self.changed = True

    def fingerprint(self, path: str, directories: Directories) -> bytes:
        """What identifies the tree at `path` by its stats, if all of its contents are cached; else
        empty.
        """
        seen = hashlib.sha256(marshal.dumps(path, 2))
        with self._lock:
            for directory, (stats, _) in directories.items():
                packed, contents = self._directories.get(directory, (b"", ()))
                if packed != _pack(stats) or b"" in contents:
                    return b""
                seen.update(marshal.dumps((directory, packed), 2))
        return seen.digest()

    def find_tree(self, key: bytes) -> str | None:
        """The digest that `put_tree` cached."""
        with self._lock:
            return self._trees.get(key)

    def put_tree(self, key: bytes, digest: str) -> None:
        """Cache the digest of a tree; `key` has its fingerprint."""
        with self._lock:
            self._trees.pop(key, None)  # the last one is kept for longest
            self._trees[key] = digest
            self.changed = True


def _pack(stats: list[Stat]) -> bytes:
    return marshal.dumps(stats, 2)  # from version 3 on, equal values may serialise differently


def _unpack(packed: bytes) -> list[Stat]:
    stats: list[Stat] = marshal.loads(packed)
    return stats


def _merged(
    old: _Record, stats: list[Stat], contents: list[bytes]
) -> tuple[list[Stat], list[bytes]]:
    rows = {
        stat[NAME]: (stat, content)
        for stat, content in (
            *zip(_unpack(old[0]), old[1], strict=True),
            *zip(stats, contents, strict=True),
        )
    }
    ordered = sorted(rows.values())
    return [stat for stat, _ in ordered], [content for _, content in ordered]


def _load(file: Path) -> _Cached:
    try:
        stored = unseal(_KIND, read_file(file))
    except OSError:
        return {}, {}
    if stored is None:
        return {}, {}
    found: _Cached = marshal.loads(stored)
    return found


def _save(file: Path, cached: _Cached) -> None:
    """Replace the file; errors are ignored."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, seal(_KIND, marshal.dumps(cached, 4)))
