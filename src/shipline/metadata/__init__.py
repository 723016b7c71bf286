"""Small durable records, in byte order of their keys, behind one small protocol."""

from shipline.metadata.protocols import Key, Records, encode, walk
from shipline.metadata.sqlite import SqliteRecords

__all__ = ["Key", "Records", "SqliteRecords", "encode", "walk"]
