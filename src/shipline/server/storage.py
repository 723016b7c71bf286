"""The data directory of a registry, and the one way by which content enters it.

    DIR/lock                      held by the process that serves the directory (flock)
    DIR/blobs/<algorithm>/<hex>   blobs and manifests: plain files, whole and read-only
    DIR/uploads/<id>              bytes of an unfinished upload; its size is its state
    DIR/metadata.db               records (SQLite, write-ahead log, synchronous=FULL)

The records, keys by their parts, values JSON or empty; names and digests as text:

    repository  <name>                        the repository exists
    blob        <name> <digest>               this repository has this blob: size, time
    manifest    <name> <digest>               it has this manifest: its descriptor, subject, time
    tag         <name> <tag>                  digest, time
    tagged      <name> <digest> <tag>         the tags of a manifest
    referrer    <name> <subject> <digest>     descriptor of a manifest that names the subject
    holder      <digest> <name> <kind>        a repository needs this file, as blob or manifest
    upload      <id>                          repository, algorithm, time

Promises. A file gets its name after fsync(2), and its records after it has its name; an answer
goes out after both are on the disk. So a process may die at any point: what was acknowledged is
there, and what was not is at worst a file that no record names. The name and the holder of a file
are given under one lock, so that a collector holding it may delete every file that has no holder.
Times are seconds of Unix time.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipline.content import LocalStore
from shipline.errors import UsageError
from shipline.metadata import Key, Records, SqliteRecords
from shipline.oci import Digest
from shipline.server.cache import Cache
from shipline.server.disk import sync_directory

Changes = dict[Key, bytes | None]


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """A blob ready to be read from `fd`, which the receiver closes; `size` in bytes."""

    fd: int
    size: int


class Storage:
    """An open data directory; one process at a time. Safe to use from any thread."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the directory. Raises UsageError while another process serves it."""
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.clock = clock
        self._lock_fd = _exclusive(root)
        self.lock = threading.RLock()
        self.store = LocalStore(root)
        self.incoming = root / "uploads"
        self.incoming.mkdir(exist_ok=True)
        for directory in (root / "blobs", root):
            sync_directory(directory)
        self.records: Records = SqliteRecords(root / "metadata.db")
        self.cache = Cache()

    def close(self) -> None:
        self.records.close()
        os.close(self._lock_fd)

    def commit(self, changes: Mapping[Key, bytes | None]) -> None:
        """Write records durably; what was remembered from before is forgotten."""
        with self.lock:
            try:
                self.records.write(changes)
            finally:
                self.cache.forget(changes)

    def admit(self, file: Path, fd: int, digest: Digest, changes: Changes) -> None:
        """Give a file that was verified the name `digest`, then write the records that need it.

        Replaces a file of that name: pushing content again mends a damaged copy.
        """
        os.fchmod(fd, 0o444)
        os.fsync(fd)
        place = self.store.path(digest)
        with self.lock:
            file.replace(place)
            sync_directory(place.parent)
            self.commit(changes)

    def exists(self, repository: str) -> bool:
        return self.records.get(("repository", repository)) is not None

    def repositories(self, after: str, limit: int) -> list[str]:
        """Names in byte order."""
        page = self.records.scan(("repository",), after=_after(after), limit=limit)
        return [key[0] for key, _ in page]

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that this repository has, None where it has not."""
        record = self.records.get(("blob", repository, str(digest)))
        return None if record is None else int(json.loads(record)["size"])

    def open_blob(self, repository: str, digest: Digest) -> OpenBlob | None:
        """A blob that this repository has, None where it has not."""
        size = self.blob_size(repository, digest)
        if size is None:
            return None
        return OpenBlob(os.open(self.store.path(digest), os.O_RDONLY | os.O_CLOEXEC), size)

    def mount(self, digest: Digest, into: str, source: str | None) -> bool:
        """Let a repository have a blob of `source`, or of any where that is None."""
        with self.lock:
            holder = source if source is not None else self._any_holder(digest)
            size = None if holder is None else self.blob_size(holder, digest)
            if size is None:
                return False
            self.commit(self.blob_records(into, digest, size))
            return True

    def delete_blob(self, repository: str, digest: Digest) -> bool:
        """Take a blob from a repository; False where it has none. The file is left."""
        with self.lock:
            if self.blob_size(repository, digest) is None:
                return False
            self.commit(
                {
                    ("blob", repository, str(digest)): None,
                    ("holder", str(digest), repository, "blob"): None,
                }
            )
            return True

    def blob_records(self, repository: str, digest: Digest, size: int) -> Changes:
        """What says that a repository has a blob."""
        return {
            ("repository", repository): b"",
            ("blob", repository, str(digest)): pack(size=size, at=self.clock()),
            ("holder", str(digest), repository, "blob"): b"",
        }

    def _any_holder(self, digest: Digest) -> str | None:
        for (name, kind), _ in self.records.scan(("holder", str(digest)), limit=1000):
            if kind == "blob":
                return name
        return None


def pack(**value: Any) -> bytes:
    """The value of a record."""
    return json.dumps(value, separators=(",", ":")).encode()


def _after(last: str) -> Key:
    return (last,) if last else ()


def _exclusive(root: Path) -> int:
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(
            f"{root} is served by another process",
            hint="stop that one, or name another directory with --data",
        ) from None
    return fd
