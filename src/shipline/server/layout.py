"""The files of a data directory beside blobs and records: the layout's version, the names in it,
some room kept free.

DIR/catalogue.jsonl     {"repository": NAME, "digest": DIGEST, "mediaType": TYPE, "tags": [TAG]}

One line for each manifest. Written after each collection, so it may be an hour old; only `recover`
reads it.

Removing records writes to the store of the records. `DIR/reserve` is a file without content that
holds the room for that.

DIR/layout.json     {"layout": 2, "metadata": "sqlite"}

Layout 1 had no mark, no `needed` and no `usage` records; opening it makes it a 2.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shipline.errors import ConfigError, ContentError
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


_NAME = "catalogue.jsonl"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A manifest of a repository, and what it is called there."""

    repository: str
    digest: str
    media_type: str
    tags: tuple[str, ...]


def write_catalogue(root: Path, records: Records) -> None:
    """Durable on return; a reader sees the old file or the new one."""
    draft = root / f"{_NAME}.new"
    with draft.open("w") as file:
        for (name,), _ in walk(records, ("repository",)):
            for (digest,), value in walk(records, ("manifest", name)):
                tags = [tag for (tag,), _ in walk(records, ("tagged", name, digest))]
                kind = json.loads(value)["mediaType"]
                line = {"repository": name, "digest": digest, "mediaType": kind, "tags": tags}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(root / _NAME)
    sync_directory(root)


def read_catalogue(root: Path) -> Iterator[CatalogueEntry]:
    """What was written last; nothing where nothing was, and no line that cannot be read."""
    try:
        file = (root / _NAME).open()
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
_ROOM = 16 << 20  # bytes
_SHARE = 16  # of the disk at most the 16th part


class ReservedSpace:
    def __init__(self, root: Path) -> None:
        self._path = root / "reserve"

    def hold(self) -> None:
        """Take the room where it is to be had; elsewhere say so in the log."""
        try:
            disk = os.statvfs(self._path.parent)
            room = min(_ROOM, disk.f_blocks * disk.f_frsize // _SHARE)
            if self._path.exists() and self._path.stat().st_blocks * 512 >= room:
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, room)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("no room in reserve for collections: %s", error)

    def release(self) -> None:
        """Let go of the room."""
        self._path.unlink(missing_ok=True)


VERSION = 2
_PLACES = {"sqlite": "metadata.db", "rocksdb": "metadata.rocksdb"}


@dataclass(frozen=True, slots=True)
class DataLayout:
    """`version` 0 is a directory that holds nothing yet."""

    version: int
    metadata: str

    def records(self, root: Path) -> Path:
        """Where the records are."""
        return root / _PLACES[self.metadata]


def read_layout(root: Path) -> DataLayout:
    """Raises ConfigError for a directory of a newer version, ContentError for a broken mark."""
    mark = root / "layout.json"
    try:
        document = json.loads(mark.read_bytes())
        found = DataLayout(int(document["layout"]), str(document["metadata"]))
    except FileNotFoundError:
        return DataLayout(1 if (root / _PLACES["sqlite"]).exists() else 0, "sqlite")
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


def write_layout(root: Path, layout: DataLayout) -> None:
    """Durable on return; a reader sees the old mark or the new one."""
    draft = root / "layout.json.new"
    with draft.open("w") as file:
        json.dump({"layout": layout.version, "metadata": layout.metadata}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(root / "layout.json")
    sync_directory(root)


def wanted_layout(root: Path, metadata: str | None) -> DataLayout:
    """The layout of the directory, or of the one that is to be made with records in `metadata`.

    Raises ConfigError for a directory whose records are elsewhere than `metadata` says, and
    ContentError for one whose records are gone.
    """
    found = read_layout(root)
    if found.version == 0:
        if _holds_content(root):
            raise _lost(root)
        return DataLayout(0, metadata or "sqlite")
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
