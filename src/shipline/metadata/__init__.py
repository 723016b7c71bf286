"""Small durable records ordered by key, behind one protocol."""

from shipline.metadata.drivers import DRIVERS, Driver, copy_records, open_records
from shipline.metadata.protocols import NOTHING, DamagedRecords, Key, Records, encode, walk
from shipline.metadata.rocksdb import RocksRecords
from shipline.metadata.sqlite import SqliteRecords

__all__ = [
    "DRIVERS",
    "NOTHING",
    "DamagedRecords",
    "Driver",
    "Key",
    "Records",
    "RocksRecords",
    "SqliteRecords",
    "copy_records",
    "encode",
    "open_records",
    "walk",
]
