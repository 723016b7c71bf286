"""A cache in levels: this process, a Redis that several share, the records of this machine.

It may forget at any time, and a level below the first may hold anything: what it says is for those
who can tell whether it is so.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.errors import ConfigError
from shipline.lru import CAPACITY, TTL_S, Lru
from shipline.metadata.protocols import DamagedRecords, Key, Records, walk
from shipline.metadata.sqlite import SqliteRecords

if TYPE_CHECKING:
    from shipline.metadata.redis import RedisCache

_EXPIRY = struct.Struct(">d")  # Unix time in seconds, before each value
_ROOM = "cache"
_PRUNE_EVERY = 1000  # writes
_ENTRY = 8 << 10  # bytes; a larger value counts as several entries of the capacity


def _cost(entry: bytes) -> int:
    return 1 + len(entry) // _ENTRY


class LeveledCache:
    """Values by key for `TTL_S` at most. Its methods do not raise. Safe to use from any thread."""

    def __init__(
        self,
        shared: RedisCache | None = None,
        records: Records | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shared, self._records, self._clock = shared, records, clock
        self._local: Lru[str, bytes] = Lru(cost=_cost, clock=clock)
        self._until_pruning = random.randrange(_PRUNE_EVERY)  # many processes write little

    def get(self, key: str) -> bytes | None:
        """The value of `key`, from the first level that has it."""
        entry = self._local.get(key)
        if entry is None and self._shared is not None:
            entry = self._fresh(self._shared.get(key))
            if entry is not None:
                self._local.put(key, entry, self._left_s(entry))
        if entry is None and self._records is not None:
            with suppress(OSError):
                entry = self._fresh(self._records.get((_ROOM, key)))
            if entry is not None:
                self._keep(key, entry, self._left_s(entry))
        return None if entry is None else entry[_EXPIRY.size :]

    def put(self, key: str, value: bytes, ttl_s: float = TTL_S) -> None:
        """Set the value of `key` at all levels."""
        ttl_s = min(ttl_s, TTL_S)
        if ttl_s <= 0:
            return
        entry = _EXPIRY.pack(self._clock() + ttl_s) + value
        self._keep(key, entry, ttl_s)
        if self._records is not None:
            with suppress(OSError):
                self._records.write({(_ROOM, key): entry}, durable=False)
                self._prune(self._records)

    def drop(self, key: str) -> None:
        """Remove `key` from all levels."""
        self._local.drop(key)
        if self._shared is not None:
            self._shared.drop(key)
        if self._records is not None:
            with suppress(OSError):
                self._records.write({(_ROOM, key): None}, durable=False)

    def close(self) -> None:
        """Close the connections and files."""
        for level in (self._shared, self._records):
            if level is not None:
                with suppress(OSError):
                    level.close()

    def _keep(self, key: str, entry: bytes, ttl_s: float) -> None:
        self._local.put(key, entry, ttl_s)
        if self._shared is not None:
            self._shared.put(key, entry, ttl_s)

    def _fresh(self, entry: bytes | None) -> bytes | None:
        """The entry, unless it has expired, or would later than any that was written."""
        if entry is None or len(entry) < _EXPIRY.size:
            return None
        return entry if 0 < self._left_s(entry) <= TTL_S else None

    def _left_s(self, entry: bytes) -> float:
        left: float = _EXPIRY.unpack_from(entry)[0] - self._clock()
        return left

    def _prune(self, records: Records) -> None:
        """Now and then delete expired entries, and those over capacity."""
        self._until_pruning -= 1
        if self._until_pruning > 0:
            return
        self._until_pruning = _PRUNE_EVERY
        room, gone = CAPACITY, list[Key]()
        for key, entry in walk(records, (_ROOM,)):
            if room >= (cost := _cost(entry)) and self._fresh(entry) is not None:
                room -= cost
            else:
                gone.append((_ROOM, *key))
        records.write(dict.fromkeys(gone), durable=False)


def open_machine_records(path: Path) -> Records | None:
    """Records that all processes of this user may use as a cache, made again if they are damaged;
    None where there can be none.
    """
    for _ in range(2):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.chmod(0o600)
            return SqliteRecords(path)
        except (DamagedRecords, ConfigError):
            with suppress(OSError):
                SqliteRecords.remove_unusable(path)
        except OSError:
            break
    return None
