"""A data directory's records moved to another store."""

from __future__ import annotations

import shutil
from pathlib import Path

from shipline.errors import ConfigError
from shipline.metadata import copy_records, open_records
from shipline.server.check import opened
from shipline.server.layout import VERSION, Layout, read_layout, write_layout


def convert(root: Path, metadata: str) -> int:
    """Copy the records to `metadata`, switch to it, delete the old ones; returns their number.

    May be interrupted anywhere: the directory has one store or the other. Raises ConfigError if
    it has that store already.
    """
    with opened(root) as storage:
        before, after = read_layout(root), Layout(VERSION, metadata)
        if before.metadata == metadata:
            raise ConfigError(f"{root} keeps its metadata in {metadata} already")
        _delete(after.records(root))
        destination = open_records(after.records(root), metadata)
        try:
            number = copy_records(storage.records, destination)
        finally:
            destination.close()
        write_layout(root, after)
    _delete(before.records(root))
    return number


def _delete(place: Path) -> None:
    for path in place.parent.glob(f"{place.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
