"""Small durable records ordered by key, behind one protocol; a cache in levels."""

from shipline.metadata.drivers import DRIVERS, Driver, copy_records, open_records
from shipline.metadata.levels import LeveledCache, open_machine_records
from shipline.metadata.protocols import NOTHING, DamagedRecords, Key, Records, encode, walk
from shipline.metadata.redis import RedisCache, RedisUrl
from shipline.metadata.rocksdb import RocksRecords
from shipline.metadata.sqlite import SqliteRecords

__all__ = [
    "DRIVERS",
    "NOTHING",
    "DamagedRecords",
    "Driver",
    "Key",
    "LeveledCache",
    "Records",
    "RedisCache",
    "RedisUrl",
    "RocksRecords",
    "SqliteRecords",
    "copy_records",
    "encode",
    "open_machine_records",
    "open_records",
    "walk",
]
