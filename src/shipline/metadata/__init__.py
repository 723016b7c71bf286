"""Small durable records ordered by key, behind one protocol; a cache in levels."""

from shipline.metadata.drivers import DRIVERS, copy_records, open_records
from shipline.metadata.levels import LeveledCache, open_machine_records
from shipline.metadata.protocols import NOTHING, DamagedRecords, Key, Records, encode, walk
from shipline.metadata.redis import RedisCache, RedisUrl
from shipline.metadata.rocksdb import RocksRecords
from shipline.metadata.sqlite import SqliteRecords
