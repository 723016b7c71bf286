"""The data directory of a registry, and the one way by which content enters it.

    DIR/layout.json               version of this layout, store of the records
    DIR/lock                      held by the process that serves the directory (flock)
    DIR/blobs/<algorithm>/<hex>   blobs and manifests: plain files, whole and read-only
    DIR/uploads/<id>              bytes of an unfinished upload; its size is its state
    DIR/reserve                   room on the disk for collections
    DIR/quarantine/               damaged files that `registry repair` took out of blobs
    DIR/metadata.db               records (SQLite, write-ahead log, synchronous=FULL)
    DIR/metadata.rocksdb/         or records in RocksDB

entries.py says what the records are.

Promises. A file gets its name after fsync(2), and its records after its name is on the disk; an
answer goes out after all three. So a process may die at any point: what was acknowledged is there,
and what was not is at worst a file that no record names. The name and the holder of a file are
given in one `shared` block, so that a collector, which is `exclusive`, may delete every file
without a holder. What a client was told is here is touched before it is told, and so stays.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shipline.content import LocalStore
from shipline.errors import ContentError, UsageError
from shipline.metadata import NOTHING, Key, Records, open_records, walk
from shipline.oci import Digest
from shipline.server.cache import ReadCache, Sizes, Totals
from shipline.server.entries import (
    COUNTED,
    Changes,
    Counts,
    Usage,
    blob_entries,
    counts,
    derive,
    no_blob_entries,
)
from shipline.server.layout import (
    VERSION,
    DataLayout,
    ReservedSpace,
    seal,
    sync_directory,
    wanted_layout,
    write_layout,
)
from shipline.server.locks import RecentPromises, SharedLock, StripedLocks

_log = logging.getLogger(__name__)
T = TypeVar("T")
_HOLDERS = 1000  # repositories that are looked through for a blob to mount


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """A blob ready to be read from `fd`, which the receiver closes; `size` in bytes."""

    fd: int
    size: int


class Storage:
    """An open data directory; one process at a time. Safe to use from any thread.

    `shared()` is for adding records and `exclusive()` for taking records or files away; neither is
    entered inside the other, nor twice.
    """

    def __init__(
        self,
        root: Path,
        *,
        metadata: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the directory; `metadata` is the store of the records, by default what
        the directory has, SQLite for a new one.

        Raises UsageError while another process serves it or where it cannot be written,
        ConfigError for another layout or store, ContentError where records are lost or broken.
        """
        self.root = root
        self.clock = clock
        self._lock_fd = claim(root)
        try:
            layout = wanted_layout(root, metadata)
            self.store = LocalStore(root)
            self.incoming = root / "uploads"
            self.incoming.mkdir(exist_ok=True)
            _check_owned(root, layout)
            for directory in (root / "blobs", root):
                sync_directory(directory)
            self.records = _opened(root, layout)
            if layout.version < VERSION:
                derive(self.records, self.store)
                write_layout(root, DataLayout(VERSION, layout.metadata))
        except BaseException:
            os.close(self._lock_fd)
            raise
        lock = SharedLock()
        self.shared = lock.shared
        self.exclusive = lock.exclusive
        self._lock = lock
        self.stripes = StripedLocks()
        self.touches = RecentPromises(clock)
        self.collecting = threading.Lock()  # held by the collection that runs
        self.cache = ReadCache()
        self._sizes = Sizes()
        self.totals = Totals()
        for (name, what), value in walk(self.records, ("usage",)):
            self.totals.add({("usage", name, what): int(value)})
        self.reserve = ReservedSpace(root)
        self.reserve.hold()

    def close(self) -> None:
        """Let others have the directory. May be called twice."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            self.records.close()
            os.close(fd)

    def commit(self, changes: Mapping[Key, bytes | None], add: Mapping[Key, int] = NOTHING) -> None:
        """Write records durably; what was remembered from before is forgotten."""
        try:
            self.records.write(changes, add=add)
            self.totals.add(add)
        finally:
            self.cache.forget(changes)
            self._sizes.forget(changes)

    def admit(self, file: Path, digest: Digest) -> None:
        """Give a file that was verified and synced the name `digest`; inside `shared`.

        Replaces a file of that name: pushing content again mends a damaged copy.
        """
        place = self.store.path(digest)
        file.replace(place)
        sync_directory(place.parent)

    def add_blob(
        self,
        name: str,
        digest: Digest,
        *,
        file: Path,
        fd: int,
        size: int,
        actor: str = "",
        also: Changes,
    ) -> None:
        """Let a repository have the verified bytes of `file`, and make the changes `also`."""
        seal(fd)
        with self.stripes.held([(name, digest)]), self.shared():
            self.admit(file, digest)
            self._record_blob(name, digest, size, actor, also)

    def making_room(self, work: Callable[[], T]) -> T:
        """The result of `work`, which takes something away: on a full disk it gets the room that
        is held in reserve.
        """
        try:
            return work()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.reserve.release()
            try:
                return work()
            finally:
                self.reserve.hold()

    def exists(self, repository: str) -> bool:
        return self.records.get(("repository", repository)) is not None

    def repositories(self, after: str, limit: int) -> list[str]:
        """Names in byte order."""
        page = self.records.scan(("repository",), after=(after,) if after else (), limit=limit)
        return [key[0] for key, _ in page]

    def usage(self, repository: str) -> Usage:
        """What a repository holds, as of the last commit; nothing for one that does not exist."""
        found = {key[0]: int(value) for key, value in self.records.scan(("usage", repository))}
        return Usage(**{what: found.get(what, 0) for what in COUNTED})

    def usages(self, prefix: str = "") -> Iterator[tuple[str, Usage]]:
        """Every repository whose name begins with `prefix`, like that of a project.

        A blob in two of them counts in both.
        """
        after: Key = (prefix,) if prefix else ()
        while page := self.records.scan(("repository",), after=after):
            for (name,), _ in page:
                if not name.startswith(prefix):
                    return
                yield name, self.usage(name)
            after = page[-1][0]

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that this repository has, None where it has not."""
        record = self.records.get(("blob", repository, str(digest)))
        return None if record is None else int(json.loads(record)["size"])

    def protect(self, repository: str, digest: Digest) -> None:
        """Call before telling a client that something is here: it then stays for a while. Look
        again afterwards, since it may just have been taken away.
        """
        self.touches.add(repository, str(digest))
        self._lock.settle()  # a removal that runs may have looked before the touch

    def find_blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that this repository has and that stays for a while; None where it
        has not, or not whole any more: then pushing it again mends it.
        """
        if self._size_of(repository, digest) is None:
            return None  # and remembered for nobody: there is no end to what may be asked for
        self.protect(repository, digest)
        size = self._size_of(repository, digest)
        if size is None:
            return None
        if not self._whole(digest, size):
            _log.error("%s of %s: its file does not have %d bytes", digest, repository, size)
            return None
        return size

    def is_held(self) -> bool:
        """Whether something is being removed just now."""
        return self._lock.held

    def open_blob(self, repository: str, digest: Digest) -> OpenBlob | None:
        """As `find_blob`, open to be read."""
        size = self.find_blob(repository, digest)
        if size is None:
            return None
        return OpenBlob(os.open(self.store.path(digest), os.O_RDONLY | os.O_CLOEXEC), size)

    def mount(
        self,
        digest: Digest,
        into: str,
        source: str | None,
        *,
        actor: str = "",
        readable: Callable[[str], bool] = lambda name: True,
        check: Callable[[int], object] = lambda more: None,
    ) -> bool:
        """Let a repository have a blob of `source`, or of any where that is None, among the
        repositories that are `readable`. `check` raises to refuse it, once its
        size is among the totals.
        """
        with self.stripes.held([(into, digest)]), self.shared():
            names = self._holders(digest) if source is None else iter((source,))
            size = next(
                (
                    size
                    for name in names
                    if readable(name) and (size := self.blob_size(name, digest)) is not None
                ),
                None,
            )
            if size is None or not self._whole(digest, size):
                return False
            self.totals.upload(into, size)
            try:
                check(0)
                self._record_blob(into, digest, size, actor, {})
            finally:
                self.totals.upload(into, -size)
            return True

    def delete_blob(
        self, repository: str, digest: Digest, *, check: Callable[[], None] = lambda: None
    ) -> bool:
        """Take a blob from a repository; False where it has none. A collection frees it. `check`
        raises to refuse it, while nobody else changes anything.
        """

        def delete() -> bool:
            with self.exclusive():
                size = self.blob_size(repository, digest)
                if size is None:
                    return False
                check()
                gone = counts(repository, blobs=-1, bytes=-size)
                self.commit(no_blob_entries(repository, str(digest)), gone)
                return True

        return self.making_room(delete)

    def _record_blob(self, name: str, digest: Digest, size: int, actor: str, also: Changes) -> None:
        known = self.blob_size(name, digest) is not None
        changes = blob_entries(name, digest, size, at=self.clock(), by=actor)
        add: Counts = {} if known else counts(name, blobs=1, bytes=size)
        self.commit(changes | also, add)

    def _size_of(self, name: str, digest: Digest) -> int | None:
        """As `blob_size`, without the disk for a blob that is hot."""
        return self._sizes.get(name, digest, lambda: self.blob_size(name, digest))

    def _whole(self, digest: Digest, size: int) -> bool:
        try:
            return self.store.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def _holders(self, digest: Digest) -> Iterator[str]:
        for (name, kind), _ in self.records.scan(("holder", str(digest)), limit=_HOLDERS):
            if kind == "blob":
                yield name


def _check_owned(root: Path, layout: DataLayout) -> None:
    """Another user's files would only be met by the first push. Raises UsageError."""
    places = (*(root / "blobs").iterdir(), root / "uploads", layout.records(root))
    for place in places:
        if place.exists() and not os.access(place, os.W_OK, effective_ids=True):
            raise UsageError(
                f"{place} cannot be written by this user",
                hint=f"give all of {root} to the user that serves it: chown -R USER {root}",
            )


def _opened(root: Path, layout: DataLayout) -> Records:
    try:
        records = open_records(layout.records(root), layout.metadata)
    except OSError as error:
        raise ContentError(
            f"the metadata in {layout.records(root)} cannot be read: {error.strerror}",
            hint="restore it from a backup, or see what shipline registry repair can recover",
        ) from error
    return records


def claim(root: Path) -> int:
    """Take a data directory for this process, as long as the descriptor is open.

    Raises UsageError while another process has it, and where it cannot be written.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # images may be private
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(
            f"{root} cannot be used: {error.strerror}",
            hint="a registry needs a directory that it can write",
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(
            f"{root} is served by another process",
            hint="stop that one, or name another directory with --data",
        ) from None
    return fd
