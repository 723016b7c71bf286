"""The data directory of a registry.

  DIR/layout.json               version of this layout, store of the records
  DIR/lock                      held (flock) by the process that uses the directory
  DIR/blobs/<algorithm>/<hex>   blobs and manifests: regular, complete, read-only files
  DIR/uploads/<id>              bytes of an unfinished upload
  DIR/reserve                   reserved disk space for garbage collection
  DIR/quarantine/               damaged files that `registry repair` moved out of blobs
  DIR/metadata.db               records (SQLite, write-ahead log, synchronous=FULL)
  DIR/metadata.rocksdb/         or records in RocksDB

See entries.py for the records.

Guarantees: a file gets its name after fsync(2), its records after the name is durable, and the
response is sent after all three. So the process may die at any point: what was acknowledged is
there, and what was not is at worst a file without a record. A file gets its name and its holder
record in one `shared` block, so that the garbage collector, which is `exclusive`, may delete every
file without a holder. Content is recorded in `promises` before a client is told that it exists,
which keeps it from being collected.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shipline.content import LocalStore
from shipline.errors import ContentError, UsageError
from shipline.metadata import NOTHING, Key, Records, open_records, walk
from shipline.oci import Digest
from shipline.server.cache import BlobSizes, ReadCache, UsageTotals
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
from shipline.server.journal import Journal
from shipline.server.layout import (
    VERSION,
    DataLayout,
    ReservedSpace,
    layout_for,
    seal,
    sync_directory,
    write_layout,
)
from shipline.server.locks import RecentPromises, SharedLock, StripedLocks

_log = logging.getLogger(__name__)
T = TypeVar("T")
_HOLDERS = 1000  # repositories to search for a blob to mount


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """A blob open at `fd`, which the caller closes; `size` in bytes."""

    fd: int
    size: int


class Storage:
    """An open data directory, used by one process at a time. Safe to use from any thread.

    Hold `shared()` to add records, `exclusive()` to remove records or files; do not nest them.
    """

    def __init__(
        self, root: Path, *, metadata: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Open or create the directory; `metadata` is the store of the records, by default the
        existing one or SQLite.

        Raises UsageError while another process uses it or if it is not writable, ConfigError for
        another layout or store, ContentError if records are lost or damaged.
        """
        self.root = root
        self.clock = clock
        self._lock_fd = lock_directory(root)
        try:
            layout = layout_for(root, metadata)
            self.store = LocalStore(root)
            self.incoming = root / "uploads"
            self.incoming.mkdir(exist_ok=True)
            _check_writable(root, layout)
            for directory in (root / "blobs", root):
                sync_directory(directory)
            self.records = _open_records(root, layout)
            if layout.version < VERSION:
                derive(self.records, self.store)
                write_layout(root, DataLayout(VERSION, layout.metadata))
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.journal = Journal(self.records, clock)
        lock = SharedLock()
        self.shared = lock.shared
        self.exclusive = lock.exclusive
        self._access_lock = lock
        self.stripes = StripedLocks()
        self.promises = RecentPromises(clock)
        self.collecting = threading.Lock()  # held by the running garbage collection
        self.cache = ReadCache()
        self._sizes = BlobSizes()
        self.totals = UsageTotals()
        self.derive: Callable[[Mapping[Key, bytes | None]], Changes] = lambda changes: {}
        for (name, counter), value in walk(self.records, ("usage",)):
            self.totals.add({("usage", name, counter): int(value)})
        self.reserve = ReservedSpace(root)
        self.reserve.hold()

    def close(self) -> None:
        """Release the directory. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            self.records.close()
            os.close(fd)

    def commit(self, changes: Mapping[Key, bytes | None], add: Mapping[Key, int] = NOTHING) -> None:
        """Write records durably, with those that `derive` adds and the entries of the journal, and
        invalidate the caches.
        """
        with self.journal.writing(changes) as entries:
            changes = {**changes, **self.derive(changes), **entries}
            try:
                self.records.write(changes, add=add)
                self.totals.add(add)
            finally:
                self.cache.forget(changes)
                self._sizes.forget(changes)

    def admit(self, file: Path, digest: Digest) -> None:
        """Move a verified and synced file to its place as `digest`; inside `shared`.

        Replaces an existing file: pushing content again repairs a damaged copy.
        """
        path = self.store.path(digest)
        file.replace(path)
        sync_directory(path.parent)

    def add_blob(
        self,
        name: str,
        digest: Digest,
        *,
        file: Path,
        fd: int,
        size: int,
        actor: str = "",
        extra: Changes,
    ) -> None:
        """Add the verified `file` to a repository as a blob, and write the `extra` records with
        it.
        """
        seal(fd)
        with self.stripes.hold([(name, digest)]), self.shared():
            self.admit(file, digest)
            self._record_blob(name, digest, size, actor, extra)

    def take_back(self, digest: Digest, file: Path) -> None:
        """Undo the move of `file` by `add_blob`, after its records could not be written. Raises
        OSError if that is not possible.
        """
        path = self.store.path(digest)
        with self.exclusive():
            if not self.records.scan(("holder", str(digest)), limit=1):
                path.replace(file)
                return
            held = path.open("rb")  # may be collected from now on
        with held, file.open("wb") as copy:
            shutil.copyfileobj(held, copy)

    def discard(self, digest: Digest) -> list[Path]:
        """Take the file of content without a holder out of the store, inside `exclusive`; the
        caller unlinks what is returned.
        """
        try:
            return [self.store.path(digest).replace(self.incoming / f"gone-{uuid.uuid4()}")]
        except FileNotFoundError:
            return []

    def with_reserve(self, work: Callable[[], T]) -> T:
        """Run `work`, which removes something; on a full disk, free the reserved space and
        retry.
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
        """Whether the repository has content."""
        return self.records.get(("repository", repository)) is not None

    def repositories(self, after: str, limit: int) -> list[str]:
        """Names in byte order."""
        page = self.records.scan(("repository",), after=(after,) if after else (), limit=limit)
        return [key[0] for key, _ in page]

    def usage(self, repository: str) -> Usage:
        """Usage of a repository as of the last commit; zero if it does not exist."""
        counters = {key[0]: int(value) for key, value in self.records.scan(("usage", repository))}
        return Usage(**{counter: counters.get(counter, 0) for counter in COUNTED})

    def usages(self) -> Iterator[tuple[str, Usage]]:
        """Usage of every repository, by name. A blob in two repositories counts in both."""
        after: Key = ()
        while page := self.records.scan(("repository",), after=after):
            for (name,), _ in page:
                yield name, self.usage(name)
            after = page[-1][0]

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob in this repository, None if it has none."""
        record = self.records.get(("blob", repository, str(digest)))
        return None if record is None else int(json.loads(record)["size"])

    def protect(self, repository: str, digest: Digest) -> None:
        """Promise content to a client: it is not collected within the grace period. Check again
        afterwards whether it exists, since it may just have been removed.
        """
        self.promises.add(repository, str(digest))
        self._access_lock.wait_exclusive()  # a running removal may have checked before the promise

    def find_blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob, which is promised to the client; None if the repository has none or
        its file is incomplete, which pushing again repairs.
        """
        if self._size_of(repository, digest) is None:
            return None  # no promise: clients may ask for any digest
        self.protect(repository, digest)
        size = self._size_of(repository, digest)
        if size is None:
            return None
        if not self._is_whole(digest, size):
            _log.error("%s of %s: file missing, or not %d bytes long", digest, repository, size)
            return None
        return size

    def is_exclusive(self) -> bool:
        """Whether something is being removed right now."""
        return self._access_lock.hold

    def open_blob(self, repository: str, digest: Digest) -> OpenBlob | None:
        """Like `find_blob`, but opened for reading."""
        size = self.find_blob(repository, digest)
        if size is None:
            return None
        return OpenBlob(os.open(self.store.path(digest), os.O_RDONLY | os.O_CLOEXEC), size)

    def mount(
        self,
        digest: Digest,
        repository: str,
        source: str | None,
        *,
        actor: str = "",
        readable: Callable[[str], bool] = lambda name: True,
        check: Callable[[int], object] = lambda more: None,
    ) -> bool:
        """Mount a blob from `source`, or from any `readable` repository if None; False if there is
        none. `check` raises to refuse it, after the blob's size was added to the totals.
        """
        with self.stripes.hold([(repository, digest)]), self.shared():
            names = self._holders(digest) if source is None else iter((source,))
            size = next(
                (
                    size
                    for name in names
                    if readable(name) and (size := self.blob_size(name, digest)) is not None
                ),
                None,
            )
            if size is None or not self._is_whole(digest, size):
                return False
            self.totals.upload(repository, size)
            try:
                check(0)
                self._record_blob(repository, digest, size, actor, {})
            finally:
                self.totals.upload(repository, -size)
            return True

    def delete_blob(
        self, repository: str, digest: Digest, *, check: Callable[[], None] = lambda: None
    ) -> bool:
        """Remove a blob from a repository; False if it has none. Garbage collection frees the file.
        `check` raises to refuse it, under the exclusive lock.
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

        return self.with_reserve(delete)

    def _record_blob(
        self, name: str, digest: Digest, size: int, actor: str, extra: Changes
    ) -> None:
        known = self.blob_size(name, digest) is not None
        changes = blob_entries(name, digest, size, at=self.clock(), by=actor)
        add: Counts = {} if known else counts(name, blobs=1, bytes=size)
        self.commit(changes | extra, add)

    def _size_of(self, name: str, digest: Digest) -> int | None:
        """Like `blob_size`, cached."""
        return self._sizes.get(name, digest, lambda: self.blob_size(name, digest))

    def _is_whole(self, digest: Digest, size: int) -> bool:
        try:
            return self.store.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def _holders(self, digest: Digest) -> Iterator[str]:
        for (name, kind), _ in self.records.scan(("holder", str(digest)), limit=_HOLDERS):
            if kind == "blob":
                yield name


def _check_writable(root: Path, layout: DataLayout) -> None:
    """Raises UsageError for files of another user, which otherwise only the first push would
    hit.
    """
    paths = (*(root / "blobs").iterdir(), root / "uploads", layout.records(root))
    for path in paths:
        if path.exists() and not os.access(path, os.W_OK, effective_ids=True):
            raise UsageError(
                f"{path} is not writable by this user",
                code="registry-data-directory",
                hint=f"give all of {root} to the user that serves it: chown -R USER {root}",
            )


def _open_records(root: Path, layout: DataLayout) -> Records:
    try:
        records = open_records(layout.records(root), layout.metadata)
    except OSError as error:
        raise ContentError(
            f"the metadata in {layout.records(root)} cannot be read: {error.strerror}",
            code="registry-data-unreadable",
            hint="restore it from a backup, or see what shipline registry repair can recover",
        ) from error
    return records


def lock_directory(root: Path) -> int:
    """Lock a data directory for this process while the returned descriptor is open.

    Raises UsageError while another process holds it, or if it is not writable.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # images may be private
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(
            f"{root} cannot be used: {error.strerror}",
            code="registry-data-directory",
            hint="a registry needs a writable directory",
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(
            f"{root} is served by another process",
            code="registry-in-use",
            hint="stop that process, or use another directory; `registry gc` and `retention` "
            "also work on a running node, with --node HOST",
        ) from None
    return fd
