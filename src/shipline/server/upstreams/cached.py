"""What came from upstreams: recorded apart from what was pushed, and evicted when it is too much.

Its records are `cached` and `checked` (see entries.py). Only content with a `cached` record is ever
evicted, least recently used first, and nothing that was used or promised to a client a moment ago.
A client that reads an evicted blob has its file open, and gets all of it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shipline.errors import Cancelled, ShiplineError
from shipline.metadata import walk
from shipline.oci import Descriptor, Digest, parse_manifest
from shipline.server.entries import Changes, counts, no_blob_entries, pack
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage
from shipline.tasks import sleep

_log = logging.getLogger(__name__)
_EVERY_S = 5.0  # between two looks at the sizes
_SAVE_EVERY_S = 60.0  # between two writes of the times of use
_IN_USE_S = 60.0  # after its last use, content is not evicted
_LOW_WATER = 0.9  # of the cap, after an eviction
_BATCH = 100  # removed under one exclusive lock
Cap = Callable[[str], tuple[str, int | None] | None]
"""The upstream of a repository and its cap in bytes, None without one; None without an upstream."""


@dataclass(slots=True)
class _Entry:
    size: int
    used: float  # Unix time
    saved: float


@contextmanager
def _logging_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ShiplineError) as error:
        _log.error("cannot evict cached content, or note its use: %s", error)


class CachedContent:
    """The cached content of a data directory. Safe to use from any thread."""

    def __init__(
        self,
        storage: Storage,
        manifests: Manifests,
        cap: Cap,
        on_evict: Callable[[str, int], object] = lambda upstream, size: None,
    ) -> None:
        """`on_evict` gets the upstream and the size of what was evicted."""
        self.storage = storage
        self._manifests = manifests
        self._cap, self._on_evict = cap, on_evict
        self._lock = threading.Lock()
        self._grew = True  # since the last eviction
        self._entries: dict[tuple[str, Digest], _Entry] = {}
        for (name, digest), value in walk(storage.records, ("cached",)):
            record = json.loads(value)
            entry = _Entry(int(record["size"]), float(record["used"]), float(record["used"]))
            self._entries[name, Digest.parse(digest)] = entry

    def add_blob(self, name: str, target: Descriptor, file: Path, fd: int) -> None:
        """Add a verified file to the repository as a blob."""
        digest, size = target.digest, target.size
        mark = self._mark(name, digest, size)
        self.storage.add_blob(name, digest, file=file, fd=fd, size=size, extra=mark)
        self._add(name, digest, size)

    def mount_blob(self, name: str, digest: Digest, readable: Callable[[str], bool]) -> bool:
        """Add a blob that a `readable` repository has, without a transfer; False if none has it."""
        if not self.storage.mount(digest, name, None, readable=readable):
            return False
        size = self.storage.blob_size(name, digest) or 0
        self.storage.commit(self._mark(name, digest, size))
        self._add(name, digest, size)
        return True

    def add_manifest(
        self, name: str, target: Descriptor, raw: bytes, tags: tuple[str, ...] = ()
    ) -> None:
        """Store a verified manifest, whose content may follow later. Raises ContentError."""
        content = parse_manifest(raw, target.media_type)
        changes: Changes = {}
        for tag in tags:
            changes |= self._check_mark(name, tag)
        pushed = not self._is_cached(name, target.digest) and self._manifests.entry(
            name, target.digest
        )
        if not pushed:
            changes |= self._mark(name, target.digest, len(raw))
        self._manifests.put(name, target.digest, content, tags, fetched=changes)
        if not pushed:
            self._add(name, target.digest, len(raw))

    def checked(self, name: str, tag: str) -> float | None:
        """When (Unix time) the upstream last confirmed a tag; None if it never did."""
        record = self.storage.records.get(("checked", name, tag))
        return None if record is None else float(json.loads(record)["at"])

    def mark_checked(self, name: str, tag: str) -> None:
        """The upstream just confirmed a tag."""
        self.storage.records.write(self._check_mark(name, tag), durable=False)

    def drop_tag(self, name: str, tag: str) -> None:
        """The upstream has no such tag any more."""
        if self.checked(name, tag) is not None:
            self._manifests.untag(name, tag)
            self.storage.records.write({("checked", name, tag): None}, durable=False)

    def touch(self, name: str, digest: Digest) -> None:
        """The content is being used."""
        entry = self._entries.get((name, digest))
        if entry is not None:
            entry.used = self.storage.clock()

    def sizes(self) -> dict[str, int]:
        """Bytes by upstream; content of several repositories counts in each."""
        totals: dict[str, int] = {}
        for (name, _), entry in self._snapshot():
            if (capped := self._cap(name)) is not None:
                totals[capped[0]] = totals.get(capped[0], 0) + entry.size
        return totals

    def maintain(self) -> None:
        """Evict and save the times of use, until the scope is cancelled."""
        waited = 0.0
        with suppress(Cancelled):
            while True:
                sleep(_EVERY_S)
                waited += _EVERY_S
                with _logging_errors():
                    if self._grew:
                        self._grew = False
                        self._grew = self.evict() or self._grew
                    if waited >= _SAVE_EVERY_S:
                        waited = 0.0
                        self.forget_removed()
                        self.save()
        with _logging_errors():
            self.save()

    def forget_removed(self) -> None:
        """Forget what was deleted otherwise, as by garbage collection."""
        kept = {(name, digest) for (name, digest), _ in walk(self.storage.records, ("cached",))}
        gone = [key for key, _ in self._snapshot() if (key[0], str(key[1])) not in kept]
        with self._lock:
            for key in gone:
                if not self._is_cached(*key):  # it was not fetched again meanwhile
                    self._entries.pop(key, None)

    def save(self) -> None:
        """Write changed times of use."""
        changes: Changes = {}
        for (name, digest), entry in self._snapshot():
            if entry.used != entry.saved:
                entry.saved = entry.used
                changes |= self._mark(name, digest, entry.size, entry.used)
        if changes:
            self.storage.records.write(changes, durable=False)

    def evict(self) -> bool:
        """Remove what was used least recently of each upstream that is above its cap; whether one
        still is, since everything is in use.
        """
        totals = self.sizes()
        caps = {capped for (name, _), _ in self._snapshot() if (capped := self._cap(name))}
        for upstream, cap in caps:
            if cap is not None and totals[upstream] > cap:
                self._evict(upstream, totals[upstream] - int(cap * _LOW_WATER))
        totals = self.sizes()
        return any(cap is not None and totals.get(upstream, 0) > cap for upstream, cap in caps)

    def _evict(self, upstream: str, size: int) -> None:
        cutoff = self.storage.clock() - _IN_USE_S
        batch: list[tuple[str, Digest]] = []
        for key, entry in sorted(self._snapshot(), key=lambda item: item[1].used):
            if size <= 0:
                break
            if (self._cap(key[0]) or ("",))[0] == upstream and entry.used < cutoff:
                batch.append(key)
                size -= entry.size
            if len(batch) == _BATCH:
                self._remove(upstream, batch, cutoff)
                batch = []
        self._remove(upstream, batch, cutoff)

    def _remove(self, upstream: str, batch: list[tuple[str, Digest]], cutoff: float) -> None:
        """Unlinks after the lock: removing large files takes time."""
        trash: list[Path] = []
        storage = self.storage
        with storage.exclusive():
            for name, digest in batch:
                entry = self._entries[name, digest]
                recent = storage.promises.promised_since(name, str(digest), cutoff)
                if entry.used >= cutoff or recent:
                    continue
                if self._is_cached(name, digest):
                    self._remove_records(name, digest)
                    if not storage.records.scan(("holder", str(digest)), limit=1):
                        trash += storage.discard(digest)
                    self._on_evict(upstream, entry.size)
                with self._lock:
                    self._entries.pop((name, digest), None)
        for file in trash:
            file.unlink(missing_ok=True)

    def _remove_records(self, name: str, digest: Digest) -> None:
        if self._manifests.remove(name, digest):
            return
        size = self.storage.blob_size(name, digest)
        gone = {} if size is None else counts(name, blobs=-1, bytes=-size)
        self.storage.commit(no_blob_entries(name, str(digest)), gone)

    def _mark(self, name: str, digest: Digest, size: int, used: float | None = None) -> Changes:
        at = self.storage.clock() if used is None else used
        return {("cached", name, str(digest)): pack(size=size, used=at)}

    def _check_mark(self, name: str, tag: str) -> Changes:
        return {("checked", name, tag): pack(at=self.storage.clock())}

    def _is_cached(self, name: str, digest: Digest) -> bool:
        return self.storage.records.get(("cached", name, str(digest))) is not None

    def _add(self, name: str, digest: Digest, size: int) -> None:
        now = self.storage.clock()
        with self._lock:
            self._entries[name, digest] = _Entry(size, now, now)
            self._grew = True

    def _snapshot(self) -> list[tuple[tuple[str, Digest], _Entry]]:
        with self._lock:
            return list(self._entries.items())
