"""The files of a data directory besides blobs and records.

  DIR/catalogue.jsonl   {"repository": NAME, "digest": DIGEST, "mediaType": TYPE, "tags": [TAG]}

One line per manifest, written after each garbage collection; only `registry repair --recover` reads
it.

  DIR/reserve           reserves disk space, since removing records also writes to their store

  DIR/layout.json       {"layout": 2, "metadata": "sqlite"}

Layout 1 had no layout.json, no `needed` and no `usage` records; opening it upgrades it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shipline.errors import ConfigError, ContentError
from shipline.files import write_durably
from shipline.metadata import DRIVERS, Records, walk


def seal(fd: int) -> None:
    """Make a file read-only and its bytes durable."""
    os.fchmod(fd, 0o444)
    os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_CATALOGUE = "catalogue.jsonl"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A manifest of a repository with its tags."""

    repository: str
    digest: str
    media_type: str
    tags: tuple[str, ...]


def write_catalogue(root: Path, records: Records) -> None:
    """Durable on return, and atomic."""
    draft = root / f"{_CATALOGUE}.new"
    with draft.open("w") as file:
        for (name,), _ in walk(records, ("repository",)):
            for (digest,), value in walk(records, ("manifest", name)):
                tags = [tag for (tag,), _ in walk(records, ("tagged", name, digest))]
                kind = json.loads(value)["mediaType"]
                line = {"repository": name, "digest": digest, "mediaType": kind, "tags": tags}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(root / _CATALOGUE)
    sync_directory(root)


def read_catalogue(root: Path) -> Iterator[CatalogueEntry]:
    """The entries that were last written; unreadable lines are skipped."""
    try:
        file = (root / _CATALOGUE).open()
    except FileNotFoundError:
        return
    with file:
        for text in file:
            try:
                line = json.loads(text)
                yield CatalogueEntry(
                    line["repository"], line["digest"], line["mediaType"], tuple(line["tags"])
                )
            except (ValueError, KeyError, TypeError):
                continue


_log = logging.getLogger(__name__)
_RESERVE = 16 << 20  # bytes
_DISK_FRACTION = 16  # at most 1/16 of the disk


class ReservedSpace:
    """Disk space that garbage collection frees when the disk is full."""

    def __init__(self, root: Path) -> None:
        self._path = root / "reserve"

    def hold(self) -> None:
        """Reserve the space, or log that there is none."""
        try:
            disk = os.statvfs(self._path.parent)
            size = min(_RESERVE, disk.f_blocks * disk.f_frsize // _DISK_FRACTION)
            if self._path.exists() and self._path.stat().st_blocks * 512 >= size:
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("cannot reserve disk space for garbage collection: %s", error)

    def release(self) -> None:
        """Free the reserved space."""
        self._path.unlink(missing_ok=True)


VERSION = 2
_RECORDS = {"sqlite": "metadata.db", "rocksdb": "metadata.rocksdb"}


@dataclass(frozen=True, slots=True)
class DataLayout:
    """`version` 0 is an empty directory."""

    version: int
    metadata: str

    def records(self, root: Path) -> Path:
        """The path of the records."""
        return root / _RECORDS[self.metadata]


def read_layout(root: Path) -> DataLayout:
    """Raises ConfigError for a newer version, ContentError for an unreadable layout.json."""
    file = root / "layout.json"
    try:
        document = json.loads(file.read_bytes())
        layout = DataLayout(int(document["layout"]), str(document["metadata"]))
    except FileNotFoundError:
        return DataLayout(1 if (root / _RECORDS["sqlite"]).exists() else 0, "sqlite")
    except (ValueError, KeyError, TypeError):
        raise ContentError(
            f"{file} cannot be read",
            code="registry-data-unreadable",
            hint="shipline registry repair rewrites it",
        ) from None
    if layout.version > VERSION or layout.metadata not in DRIVERS:
        raise ConfigError(
            f"{root} has layout {layout.version} with metadata in {layout.metadata}; "
            f"this version supports layouts up to {VERSION}",
            code="registry-data-version",
            hint="run the version of shipline that wrote it, or a newer one",
        )
    return layout


def write_layout(root: Path, layout: DataLayout) -> None:
    """Durable on return, and atomic."""
    document = json.dumps({"layout": layout.version, "metadata": layout.metadata}) + "\n"
    write_durably(root / "layout.json", document.encode(), 0o644)
    sync_directory(root)


def layout_for(root: Path, metadata: str | None) -> DataLayout:
    """The layout of an existing directory, or that for a new one with records in `metadata`.

    Raises ConfigError if the directory's records are not in `metadata`, ContentError if they are
    lost.
    """
    layout = read_layout(root)
    if layout.version == 0:
        if _holds_content(root):
            raise _metadata_lost(root)
        return DataLayout(0, metadata or "sqlite")
    if metadata is not None and metadata != layout.metadata:
        raise ConfigError(
            f"{root} keeps its metadata in {layout.metadata}, not in {metadata}",
            code="registry-metadata",
            hint=f"shipline registry convert --data {root} --metadata {metadata}",
        )
    if not layout.records(root).exists():
        raise _metadata_lost(root)
    return layout


def _metadata_lost(root: Path) -> ContentError:
    return ContentError(
        f"{root} contains images but its metadata is missing",
        code="registry-data-unreadable",
        hint="restore it from a backup, or see what shipline registry repair can recover",
    )


def _holds_content(root: Path) -> bool:
    return any((root / "blobs").glob("sha*/*"))
