"""The metadata stores, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from shipline.errors import ConfigError
from shipline.metadata.protocols import Key, Records
from shipline.metadata.rocksdb import RocksRecords
from shipline.metadata.sqlite import SqliteRecords

Driver = Literal["sqlite", "rocksdb"]
DRIVERS: tuple[Driver, ...] = get_args(Driver)
_BATCH = 5000  # records


def open_records(path: Path, driver: str = "sqlite") -> Records:
    """Open or create the records at `path`. Raises ConfigError for an unknown or missing driver,
    and for another layout.
    """
    match driver:
        case "sqlite":
            return SqliteRecords(path)
        case "rocksdb":
            return RocksRecords(path)
    raise ConfigError(
        f"unknown metadata driver {driver!r}",
        code="config-invalid",
        hint=f"use one of: {', '.join(DRIVERS)}",
    )


def copy_records(source: Records, destination: Records) -> int:
    """Copy every record; returns their number. Durable on return."""
    copied, after = 0, Key()
    while page := source.scan((), after=after, limit=_BATCH):
        destination.write(dict(page), durable=False)
        copied, after = copied + len(page), page[-1][0]
    destination.write({})
    return copied
