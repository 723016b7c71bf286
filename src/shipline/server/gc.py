"""Garbage collection: what nothing needs is looked for without a lock, looked at again, and removed
while the node works.

Collected are blobs that no manifest of their repository needs, signatures and referrers of images
that were deleted, manifests that nothing leads to where that is asked for, repositories with
nothing in them, and files that no repository holds. Never what is younger than the grace period or
was touched within it: a push may be about to need it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from shipline.errors import Cancelled, ShiplineError, UsageError
from shipline.metadata import walk
from shipline.oci import Digest, InvalidDigest
from shipline.server.entries import Changes, Counts, no_blob_entries, no_tag_entries
from shipline.server.journal import NodeEvent, Tell
from shipline.server.layout import write_catalogue
from shipline.server.manifests import Manifests
from shipline.server.reach import (
    companions,
    named_after,
    needed,
    ordinary_tags,
    reachable,
    referrers,
)
from shipline.server.storage import Storage
from shipline.tasks import check, sleep
from shipline.units import Duration


@dataclass(frozen=True, slots=True)
class GcOptions:
    """What is collected, and when."""

    every: Duration | None = field(
        default=Duration.parse("1h"),
        metadata={"doc": "Time between two collections; null for none."},
    )
    grace: Duration = field(
        default=Duration.parse("1h"),
        metadata={"doc": "Nothing that was pushed or asked for within this time is collected."},
    )
    untagged: bool = field(
        default=False,
        metadata={"doc": "Collect manifests that no tag, index or subject leads to."},
    )


@dataclass(slots=True)
class GcReport:
    """What was collected, or would be; `bytes` are those of the files."""

    dry_run: bool = False
    repositories: int = 0
    manifests: int = 0
    tags: int = 0
    blobs: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        return asdict(self)


COLLECTED = "collected"
_SLICE = 100  # things removed while nobody may add
_LOOK = 500  # things looked at between two pauses
_ROUNDS = 100  # of followers of followers
T = TypeVar("T")


class GcRun:
    """One collection. In a dry run `_gone` stands for what would have been removed."""

    def __init__(
        self,
        storage: Storage,
        options: GcOptions,
        dry_run: bool,
        share: float,
        actor: str,
        tell: Tell,
    ) -> None:
        """`tell` is called where others may add."""
        self._storage = storage
        self._manifests = Manifests(storage)
        self._cutoff = storage.clock() - options.grace.seconds
        self._untagged = options.untagged
        self._dry_run = dry_run
        self._actor, self._tell = actor, tell
        self._news: list[NodeEvent] = []  # to be told once the lock is free
        self._rest = 1.0 / share - 1.0
        self._gone: set[int] = set()  # hashes of what a dry run has taken
        self._graves = (storage.incoming / f"gone-{number}" for number in count())
        self.report = GcReport(dry_run)

    def run(self) -> GcReport:
        begun = time.monotonic()
        try:
            for (name,), _ in walk(self._storage.records, ("repository",)):
                self._collect_records(name)
        except OSError:  # a full disk takes no records: files that nobody holds make room for them
            self._collect_files()
            raise
        self._collect_files()
        if not self._dry_run:
            write_catalogue(self._storage.root, self._storage.records)
        self.report.seconds = round(time.monotonic() - begun, 3)
        return self.report

    def _collect_records(self, name: str) -> None:
        if self._untagged:
            self._collect_untagged(name)
        self._collect_followers(name)
        self._collect_blobs(name)
        self._collect_repository(name)

    def _collect_untagged(self, name: str) -> None:
        waiting = self._unreachable(name)
        while waiting:  # an index goes before its children
            left = [one for batch in self._paced(waiting) for one in self._kept(name, batch)]
            if len(left) == len(waiting):
                return
            waiting = left

    def _unreachable(self, name: str) -> list[str]:
        old, young = [], set()
        for (digest,), value in walk(self._storage.records, ("manifest", name)):
            if self._recent(name, digest, value):
                young.add(digest)
            else:
                old.append(digest)
        found = reachable(self._storage, name, young) if old else set()
        return [digest for digest in old if digest not in found]

    def _kept(self, name: str, batch: list[str]) -> list[str]:
        """Remove manifests; returns those that are still needed."""
        left = []
        for digest in batch:
            with self._removing():
                if not self._remove_manifest(name, digest):
                    left.append(digest)
        return left

    @contextmanager
    def _removing(self) -> Iterator[None]:
        """`exclusive`; what went is told after it."""
        try:
            with self._storage.exclusive():
                yield
        finally:
            news, self._news = self._news, []
            for event in news:
                self._tell(event)

    def _went(self, kind: Literal["delete", "untag"], name: str, **facts: Any) -> None:
        self._news.append(NodeEvent(kind, name, actor=self._actor, message=COLLECTED, **facts))

    def _remove_manifest(self, name: str, digest: str) -> bool:
        """Inside `exclusive`; False where something still needs it."""
        value = self._storage.records.get(("manifest", name, digest))
        if value is None or hash((name, digest)) in self._gone:
            return True
        if (
            self._recent(name, digest, value)
            or any(ordinary_tags(self._storage, name, digest))
            or self._is_needed(name, digest)
            or self._has_image(name, digest, value)
        ):
            return False
        self.report.manifests += 1
        self.report.tags += sum(1 for _ in walk(self._storage.records, ("tagged", name, digest)))
        if self._dry_run:
            self._gone.add(hash((name, digest)))
            self._gone.add(hash((digest, name, "manifest")))
        else:
            self._manifests.remove(name, Digest.parse(digest))
            self._went("delete", name, digest=digest, media_type=json.loads(value)["mediaType"])
        return True

    def _collect_followers(self, name: str) -> None:
        """What belonged to a deleted image goes, and what belonged to that."""
        for _ in range(_ROUNDS):
            before = self.report.manifests
            for (digest,), mark in walk(self._storage.records, ("deleted", name)):
                self._collect_followers_of(name, digest, mark)
            if self.report.manifests == before or self._dry_run:
                return

    def _collect_followers_of(self, name: str, digest: str, mark: bytes) -> None:
        """Nothing more of it once the image was pushed again, which takes the mark away."""
        storage, clean = self._storage, True
        for tag, target in list(companions(storage, name, digest)):
            with self._removing():
                marked = self._is_marked(name, digest, mark)
                clean = marked and self._remove_companion(name, tag, target) and clean
        for follower in list(referrers(storage, name, digest)):
            with self._removing():
                clean = self._remove_manifest(name, follower) and clean
        with storage.exclusive():
            if clean and not self._dry_run and self._is_marked(name, digest, mark):
                storage.commit({("deleted", name, digest): None})

    def _is_marked(self, name: str, digest: str, mark: bytes) -> bool:
        return self._storage.records.get(("deleted", name, digest)) == mark

    def _remove_companion(self, name: str, tag: str, target: str) -> bool:
        record = self._storage.records.get(("tag", name, tag))
        if record is None or json.loads(record)["digest"] != target:
            return record is None
        if self._recent(name, target, record):
            return False
        if self._remove_manifest(name, target):
            return True
        self.report.tags += 1
        if not self._dry_run:
            gone: Counts = {("usage", name, "tags"): -1}
            self._storage.commit(no_tag_entries(name, tag, target), gone)
            self._went("untag", name, digest=target, tags=(tag,))
        return True

    def _collect_blobs(self, name: str) -> None:
        records = self._storage.records
        for batch in self._paced(walk(records, ("blob", name)), _LOOK):
            found = [digest for (digest,), value in batch if self._unneeded(name, digest, value)]
            for part in _batches(found, _SLICE):
                with self._storage.exclusive():
                    self._remove_blobs(name, part)

    def _remove_blobs(self, name: str, digests: list[str]) -> None:
        changes: Changes = {}
        blobs = size = 0
        for digest in digests:
            value = self._storage.records.get(("blob", name, digest))
            if value is None or not self._unneeded(name, digest, value):
                continue
            changes |= no_blob_entries(name, digest)
            blobs += 1
            size += int(json.loads(value)["size"])
            if self._dry_run:
                self._gone.add(hash((digest, name, "blob")))
        self.report.blobs += blobs
        if changes and not self._dry_run:
            add: Counts = {("usage", name, "blobs"): -blobs, ("usage", name, "bytes"): -size}
            self._storage.commit(changes, add)

    def _unneeded(self, name: str, digest: str, value: bytes) -> bool:
        return not self._recent(name, digest, value) and not self._is_needed(name, digest)

    def _is_needed(self, name: str, digest: str) -> bool:
        users = needed(self._storage, name, digest)
        return any(hash((name, user)) not in self._gone for user in users)

    def _has_image(self, name: str, digest: str, value: bytes) -> bool:
        """Whether the image that a signature or referrer belongs to is here, maybe again: it was
        not when it was looked for.
        """
        storage = self._storage
        tags = (tag for (tag,), _ in walk(storage.records, ("tagged", name, digest)))
        images = (json.loads(value).get("subject"), *map(named_after, tags))
        return any(
            image
            and storage.records.get(("manifest", name, image)) is not None
            and hash((name, image)) not in self._gone
            for image in images
        )

    def _recent(self, name: str, digest: str, value: bytes) -> bool:
        touched = self._storage.touches.since(name, digest, self._cutoff)
        return touched or float(json.loads(value)["at"]) > self._cutoff

    def _collect_repository(self, name: str) -> None:
        records = self._storage.records
        with self._storage.exclusive():
            if self._holds_something(name):
                return
            changes: Changes = {("repository", name): None}
            for kind in ("usage", "deleted", "needed", "referrer", "proven", "vouched"):
                changes |= {(kind, name, *key): None for key, _ in walk(records, (kind, name))}
            self.report.repositories += 1
            if not self._dry_run:
                self._storage.commit(changes)

    def _holds_something(self, name: str) -> bool:
        if self._dry_run:
            return any(self._left(name))
        kinds = ("blob", "manifest", "tag")
        return any(self._storage.records.scan((kind, name), limit=1) for kind in kinds)

    def _left(self, name: str) -> Iterator[str]:
        """What a repository would still have after a dry run; tags go with their manifest."""
        records, gone = self._storage.records, self._gone
        for (tag,), value in walk(records, ("tag", name)):
            if hash((name, json.loads(value)["digest"])) not in gone:
                yield tag
        for (digest,), _ in walk(records, ("manifest", name)):
            if hash((name, digest)) not in gone:
                yield digest
        for (digest,), _ in walk(records, ("blob", name)):
            if hash((digest, name, "blob")) not in gone:
                yield digest

    def _collect_files(self) -> None:
        for algorithm in ("sha256", "sha512"):
            directory = self._storage.root / "blobs" / algorithm
            with os.scandir(directory) as files:
                for batch in self._paced(files, _LOOK):
                    found = [file.name for file in batch if not self._is_held(algorithm, file.name)]
                    for part in _batches(found, _SLICE):
                        self._remove_files(directory, part)

    def _remove_files(self, directory: Path, names: list[str]) -> None:
        """Large files take time to vanish, so they do that after the moment is over."""
        graves, algorithm = [], directory.name
        with self._storage.exclusive():
            for name in names:
                if self._is_held(algorithm, name):
                    continue
                self.report.files += 1
                self.report.bytes += (directory / name).stat().st_size
                if not self._dry_run:
                    graves.append((directory / name).replace(next(self._graves)))
        for grave in graves:
            grave.unlink()

    def _is_held(self, algorithm: str, name: str) -> bool:
        """Files that are not named by a digest are left to `registry check`."""
        try:
            digest = str(Digest.parse(f"{algorithm}:{name}"))
        except InvalidDigest:
            return True
        holders = self._storage.records.scan(
            ("holder", digest), limit=1 if not self._gone else 1000
        )
        return any(hash((digest, *holder)) not in self._gone for holder, _ in holders)

    def _paced(self, things: Iterable[T], number: int = _SLICE) -> Iterator[list[T]]:
        """Batches, with a pause after each in proportion to the time that it took."""
        for batch in _batches(things, number):
            begun = time.monotonic()
            yield batch
            check()
            if self._rest > 0:
                sleep((time.monotonic() - begun) * self._rest)


def _batches(things: Iterable[T], number: int) -> Iterator[list[T]]:
    source = iter(things)
    while batch := list(islice(source, number)):
        yield batch


_log = logging.getLogger(__name__)
COLLECTION = "collection"  # who does what nobody has asked for


def collect(
    storage: Storage,
    options: GcOptions | None = None,
    *,
    dry_run: bool = False,
    share: float = 1.0,
    actor: str = COLLECTION,
    tell: Tell = lambda event: None,
) -> GcReport:
    """Collect once; returns what went. `share` is the part of the time that it works. `tell` gets
    an event for each manifest and tag that went, and one for the whole.

    On a full disk it works in the room that is held in reserve. Raises UsageError while another
    collection of the directory runs.
    """
    if not storage.collecting.acquire(blocking=False):
        raise UsageError("a collection is running already", hint="wait until it has ended")
    options = options or GcOptions()
    try:
        report = storage.making_room(
            lambda: GcRun(storage, options, dry_run, share, actor, tell).run()
        )
        if not dry_run:
            tell(
                NodeEvent(
                    "collect", actor=actor, message=f"collection: {json.dumps(report.to_json())}"
                )
            )
        return report
    finally:
        storage.reserve.hold()
        storage.collecting.release()


def collect_forever(
    storage: Storage,
    options: GcOptions,
    *,
    share: float = 0.25,
    told: Callable[[GcReport], object] = lambda report: None,
    tell: Tell = lambda event: None,
) -> None:
    """Collect every now and then until the scope is cancelled; `told` gets each report, `tell` the
    events.
    """
    if options.every is None:
        return
    try:
        while True:
            sleep(max(options.every.seconds, 1.0))
            try:
                report = collect(storage, options, share=share, tell=tell)
            except (OSError, ShiplineError) as error:
                _log.error("the collection ended early: %s", error)
                continue
            _log.info("collected %s", json.dumps(report.to_json()))
            told(report)
    except Cancelled:
        return
