"""Small durable records ordered by key, behind one protocol; a cache in levels.

What few programs use is loaded when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named
from shipline.metadata.protocols import NOTHING, DamagedRecords, Key, Records, encode, walk
from shipline.metadata.sqlite import SqliteRecords

if TYPE_CHECKING:
    from shipline.metadata.drivers import DRIVERS, copy_records, open_records
    from shipline.metadata.levels import LeveledCache, open_machine_records
    from shipline.metadata.redis import RedisCache, RedisUrl
    from shipline.metadata.rocksdb import RocksRecords
else:
    __getattr__ = load_when_named(
        __name__,
        drivers="DRIVERS copy_records open_records",
        levels="LeveledCache open_machine_records",
        redis="RedisCache RedisUrl",
        rocksdb="RocksRecords",
    )
