"""StatCache: content digests of files that have not changed since they were last read.

A file is unchanged when its name, mode, owner, size, inode, mtime and ctime are. What was changed
within a clock tick of the scan may change again without a trace, so it is read again next time
(as git does with racy entries).
"""

from __future__ import annotations

import marshal
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shipline.content import seal, unseal

Stat = tuple[str, int, int, int, int, int, int, int, int]
"""Name, mode with type, uid, gid, size, mtime and ctime in nanoseconds, inode, links."""

_KIND = b"shipline-stat-2\n"
_TICK_NS = 20_000_000  # file times advance with the timer interrupt: 10 ms at its slowest
_Record = tuple[bytes, list[bytes]]  # packed stats, which compare faster than they load


class StatCache:
    """What is known of the directories of one root; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._directories: dict[str, _Record] = {}
        self.changed = False

    @classmethod
    @contextmanager
    def open(cls, file: Path) -> Iterator[StatCache]:
        """The cache kept in `file`, which may be absent or damaged; written back at the end.

        Of two programs that end at once one wins, and the other's work is done again next time.
        """
        cache = cls()
        cache._directories = _load(file)
        yield cache
        if cache.changed:
            _save(file, cache._directories)

    def find(self, directory: str, stats: list[Stat]) -> list[bytes | None]:
        """The content of each of `stats`, sorted by name; None for what has to be read."""
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
        """Remember contents read after `since_ns`; `complete` if `stats` is the whole directory."""
        limit = since_ns - _TICK_NS
        kept = [
            b"" if stat[6] >= limit or stat[5] >= limit else content
            for stat, content in zip(stats, contents, strict=True)
        ]
        with self._lock:
            if not complete and directory in self._directories:
                stats, kept = _merged(self._directories[directory], stats, kept)
            self._directories[directory] = (_pack(stats), kept)
            self.changed = True


def _pack(stats: list[Stat]) -> bytes:
    return marshal.dumps(stats, 2)  # from version 3 on, equal values may have different forms


def _unpack(packed: bytes) -> list[Stat]:
    stats: list[Stat] = marshal.loads(packed)
    return stats


def _merged(
    old: _Record, stats: list[Stat], contents: list[bytes]
) -> tuple[list[Stat], list[bytes]]:
    rows = {
        stat[0]: (stat, content)
        for stat, content in (
            *zip(_unpack(old[0]), old[1], strict=True),
            *zip(stats, contents, strict=True),
        )
    }
    ordered = sorted(rows.values())
    return [stat for stat, _ in ordered], [content for _, content in ordered]


def _load(file: Path) -> dict[str, _Record]:
    try:
        stored = unseal(_KIND, file.read_bytes())
    except OSError:
        return {}
    if stored is None:
        return {}
    found: dict[str, _Record] = marshal.loads(stored)
    return found


def _save(file: Path, directories: dict[str, _Record]) -> None:
    """Replace the file; a cache that cannot be written is no reason to fail."""
    new = file.with_name(f".{file.name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(seal(_KIND, marshal.dumps(directories, 4)))
        os.replace(new, file)
    except OSError:
        with suppress(OSError):
            new.unlink()
