"""The mark of a data directory: the version of its layout, and the store of its records.

    DIR/layout.json     {"layout": 2, "metadata": "sqlite"}

Layout 1 had no mark, no `needed` and no `usage` records; opening it makes it a 2.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from shipline.errors import ConfigError, ContentError
from shipline.metadata import DRIVERS
from shipline.server.disk import sync_directory

VERSION = 2
_PLACES = {"sqlite": "metadata.db", "rocksdb": "metadata.rocksdb"}


@dataclass(frozen=True, slots=True)
class Layout:
    """`version` 0 is a directory that holds nothing yet."""

    version: int
    metadata: str

    def records(self, root: Path) -> Path:
        """Where the records are."""
        return root / _PLACES[self.metadata]


def read_layout(root: Path) -> Layout:
    """Raises ConfigError for a directory of a newer version, ContentError for a broken mark."""
    mark = root / "layout.json"
    try:
        document = json.loads(mark.read_bytes())
        found = Layout(int(document["layout"]), str(document["metadata"]))
    except FileNotFoundError:
        return Layout(1 if (root / _PLACES["sqlite"]).exists() else 0, "sqlite")
    except (ValueError, KeyError, TypeError):
        raise ContentError(
            f"{mark} cannot be read", hint="shipline registry repair writes it again"
        ) from None
    if found.version > VERSION or found.metadata not in DRIVERS:
        raise ConfigError(
            f"{root} has layout {found.version} with metadata in {found.metadata}; "
            f"this program knows layouts up to {VERSION}",
            hint="run the version of shipline that wrote it, or a newer one",
        )
    return found


def write_layout(root: Path, layout: Layout) -> None:
    """Durable on return; a reader sees the old mark or the new one."""
    draft = root / "layout.json.new"
    with draft.open("w") as file:
        json.dump({"layout": layout.version, "metadata": layout.metadata}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(root / "layout.json")
    sync_directory(root)


def wanted_layout(root: Path, metadata: str | None) -> Layout:
    """The layout of the directory, or of the one that is to be made with records in `metadata`.

    Raises ConfigError for a directory whose records are elsewhere than `metadata` says, and
    ContentError for one whose records are gone.
    """
    found = read_layout(root)
    if found.version == 0:
        if _holds_content(root):
            raise _lost(root)
        return Layout(0, metadata or "sqlite")
    if metadata is not None and metadata != found.metadata:
        raise ConfigError(
            f"{root} keeps its metadata in {found.metadata}, not in {metadata}",
            hint=f"shipline registry convert {root} --metadata {metadata}",
        )
    if not found.records(root).exists():
        raise _lost(root)
    return found


def _lost(root: Path) -> ContentError:
    return ContentError(
        f"{root} holds images but its metadata is gone",
        hint="restore it from a backup, or see what shipline registry repair can recover",
    )


def _holds_content(root: Path) -> bool:
    return any((root / "blobs").glob("sha*/*"))
